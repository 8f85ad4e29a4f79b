//! The log as its writer and its readers see it.

use std::fs::File;
use std::path::Path;

use anyhow::Result;
use jiff::Timestamp;

use super::reader::read_with;
use super::{Entry, Item, Query, Stream, Writer, path};
use crate::container::follow::Watch;
use crate::spec::Log;

fn options(max_size: u64, max_files: u32) -> Log {
    Log {
        none: false,
        max_size: (max_size > 0).then_some(max_size),
        max_files: (max_files > 0).then_some(max_files),
    }
}

fn written(chunks: &[(Stream, &[u8])]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = Writer::open(dir.path(), &Log::default()).unwrap();
    for (stream, bytes) in chunks {
        writer.write(*stream, bytes);
    }
    writer.flush();
    dir
}

fn texts(dir: &Path, query: &Query<'_>) -> Vec<String> {
    let mut texts = Vec::new();
    read_with(dir, query, None, &mut |item| {
        if let Item::Entry(entry) = item {
            texts.push(entry.text.into_owned());
        }
        Ok(())
    })
    .unwrap();
    texts
}

#[test]
fn records_look_as_dockers_do() {
    let dir = written(&[
        (Stream::Stdout, b"hello <b> & \"q\" \\ \t\x1b[0m\r\n"),
        (Stream::Stderr, "caf\u{e9} \u{2028}".as_bytes()),
        (Stream::Stderr, b" \xff\xc3(\n"),
        (Stream::Stdout, b"no end"),
    ]);
    let log = std::fs::read_to_string(path(dir.path(), 0)).unwrap();
    let lines: Vec<String> = log
        .lines()
        .map(|line| {
            let (record, time) = line.split_once(r#","time":""#).unwrap();
            let time = time.strip_suffix(r#""}"#).unwrap();
            assert!(
                time.ends_with('Z') && time.parse::<Timestamp>().is_ok(),
                "{time}"
            );
            record.to_owned()
        })
        .collect();
    assert_eq!(
        lines,
        [
            r#"{"log":"hello \u003cb\u003e \u0026 \"q\" \\ \u0009\u001b[0m\r\n","stream":"stdout""#,
            "{\"log\":\"caf\u{e9} \\u2028 \\ufffd\\ufffd(\\n\",\"stream\":\"stderr\"",
            r#"{"log":"no end","stream":"stdout""#,
        ]
    );
}

#[test]
fn lines_come_whole_however_they_were_cut_and_mixed() {
    let dir = written(&[
        (Stream::Stdout, b"a"),
        (Stream::Stderr, b"x\ny"),
        (Stream::Stdout, b"b\n\nc"),
        (Stream::Stderr, b"z\n"),
    ]);
    assert_eq!(
        texts(dir.path(), &Query::default()),
        ["x\n", "ab\n", "\n", "yz\n", "c"]
    );
    let only = Query {
        stream: Some(Stream::Stderr),
        ..Query::default()
    };
    assert_eq!(texts(dir.path(), &only), ["x\n", "yz\n"]);
}

#[test]
fn long_lines_are_cut_between_characters_and_nothing_is_lost() {
    for line in [
        "x".repeat(16 << 10),
        "x".repeat((16 << 10) + 1),
        format!("{}\u{e9}\u{20ac}", "x".repeat((16 << 10) - 1)),
        "\u{1f980}".repeat(20_000),
    ] {
        for step in [1000, 4096, 1 << 20] {
            let whole = format!("{line}\n");
            let chunks: Vec<(Stream, &[u8])> = whole
                .as_bytes()
                .chunks(step)
                .map(|chunk| (Stream::Stdout, chunk))
                .collect();
            let dir = written(&chunks);
            let texts = texts(dir.path(), &Query::default());
            assert_eq!(texts.concat(), whole);
            assert!(texts.len() > 1 && texts.iter().all(|text| text.len() <= 16 << 10));
            assert!(!texts[0].ends_with('\n') && texts.last().unwrap().ends_with('\n'));
        }
    }
}

#[test]
fn bytes_that_are_no_text_do_not_stop_the_log() {
    let bytes: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    let dir = written(&[(Stream::Stdout, &bytes), (Stream::Stdout, b"\nend\n")]);
    let texts = texts(dir.path(), &Query::default());
    assert_eq!(texts.last().unwrap(), "end\n");
    assert!(texts.concat().contains('\u{fffd}'));
}

#[test]
fn rotation_keeps_the_newest_files_and_their_order() {
    for (max_files, most) in [(1, 1), (3, 3)] {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = Writer::open(dir.path(), &options(1000, max_files)).unwrap();
        for number in 0..1000 {
            writer.write(Stream::Stdout, format!("{number}\n").as_bytes());
        }
        let files = std::fs::read_dir(dir.path()).unwrap().count();
        assert_eq!(files, most);
        for number in 0..max_files {
            let size = path(dir.path(), number).metadata().unwrap().len();
            assert!(size < 1100, "{size}");
        }
        let texts = texts(dir.path(), &Query::default());
        let first: usize = texts[0].trim().parse().unwrap();
        let expected: Vec<String> = (first..1000).map(|number| format!("{number}\n")).collect();
        assert_eq!(texts, expected);
    }
}

#[test]
fn a_log_goes_on_where_a_killed_writer_left_it() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(path(dir.path(), 0), "{\"log\":\"torn").unwrap();
    std::fs::write(
        path(dir.path(), 2),
        "{\"log\":\"old\\n\",\"stream\":\"stdout\",\"time\":\"\"}\n",
    )
    .unwrap();
    let mut writer = Writer::open(dir.path(), &options(100, 5)).unwrap();
    for text in ["one\n", "two\n", "three\n"] {
        writer.write(Stream::Stdout, text.as_bytes());
    }
    assert_eq!(
        texts(dir.path(), &Query::default()),
        ["old\n", "one\n", "two\n", "three\n"]
    );
}

#[test]
fn a_full_disk_is_noted_in_the_log_once_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = Writer::open(dir.path(), &Log::default()).unwrap();
    writer.write(Stream::Stdout, b"before\n");
    // Every write to it says ENOSPC.
    let full = File::options().write(true).open("/dev/full").unwrap();
    let real = writer.swap_file(full);
    writer.write(Stream::Stdout, b"one\ntwo\n");
    writer.write(Stream::Stdout, b"three\n");
    assert_eq!(writer.lost(), 3);
    drop(writer.swap_file(real));
    writer.write(Stream::Stdout, b"after\n");
    assert_eq!(writer.lost(), 0);
    assert_eq!(
        texts(dir.path(), &Query::default()),
        [
            "before\n",
            "rl: 3 lines are missing here: the disk was full\n",
            "after\n"
        ]
    );
}

#[test]
fn the_tail_is_found_in_any_number_of_files() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = Writer::open(dir.path(), &options(5000, 4)).unwrap();
    for number in 0..200 {
        let stream = [Stream::Stdout, Stream::Stderr][number % 2];
        writer.write(
            stream,
            format!("{number} {}\n", "x".repeat(number)).as_bytes(),
        );
    }
    assert!(path(dir.path(), 3).exists());
    let all = texts(dir.path(), &Query::default());
    for tail in [0, 1, 2, 30, 60, all.len(), all.len() + 7] {
        for stream in [None, Some(Stream::Stderr)] {
            let query = Query {
                tail: Some(tail as u64),
                stream,
                ..Query::default()
            };
            let expected = texts(
                dir.path(),
                &Query {
                    stream,
                    ..Query::default()
                },
            );
            let from = expected.len().saturating_sub(tail);
            assert_eq!(
                texts(dir.path(), &query),
                expected[from..],
                "--tail {tail} {stream:?}"
            );
        }
    }
}

#[test]
fn the_tail_of_records_longer_than_a_block_is_found() {
    let line = format!("{}\n", "\u{1}".repeat(16_000));
    let dir = written(&[(Stream::Stdout, line.repeat(4).as_bytes())]);
    let query = |tail| Query {
        tail: Some(tail),
        ..Query::default()
    };
    for tail in 0..4 {
        assert_eq!(texts(dir.path(), &query(tail)).len() as u64, tail);
    }
}

#[test]
fn since_and_until_include_their_ends() {
    let dir = tempfile::tempdir().unwrap();
    let log: String = (0..10)
        .map(|second| {
            format!("{{\"log\":\"{second}\\n\",\"stream\":\"stdout\",\"time\":\"2025-01-01T00:00:0{second}.5Z\"}}\n")
        })
        .collect();
    std::fs::write(path(dir.path(), 0), log).unwrap();
    let time = |second: i64| Timestamp::new(1_735_689_600 + second, 500_000_000).ok();
    for (since, until, tail, expected) in [
        (time(3), None, None, "3456789"),
        (None, time(3), None, "0123"),
        (time(3), time(5), None, "345"),
        (time(3), time(5), Some(2), "45"),
        (time(20), None, None, ""),
    ] {
        let query = Query {
            since,
            until,
            tail,
            ..Query::default()
        };
        assert_eq!(
            texts(dir.path(), &query).concat().replace('\n', ""),
            expected
        );
    }
}

/// Writes `count` numbered lines while a reader follows; what the reader saw.
fn followed(log: &Log, count: u64, slow: bool) -> (Vec<u64>, u64) {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = Writer::open(dir.path(), log).unwrap();
    let (end, alive) = rustix::pipe::pipe().unwrap();
    let query = Query {
        follow: true,
        ..Query::default()
    };
    let mut watch = Watch::new(dir.path(), None).unwrap();
    watch.end = Some(end);
    let (mut seen, mut gaps) = (Vec::new(), 0);
    let (ready, begin) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (alive, begin) = (alive, begin);
            begin.recv().unwrap();
            for number in 0..count {
                writer.write(Stream::Stdout, format!("{number}\n").as_bytes());
                if slow && number % 64 == 0 {
                    std::thread::yield_now();
                }
            }
            drop(alive);
        });
        let mut out = |item: Item<'_>| -> Result<()> {
            match item {
                Item::Entry(Entry { text, .. }) => seen.push(text.trim().parse().unwrap()),
                Item::Gap => gaps += 1,
                // The first one: it is in the first file.
                Item::Pause => {
                    let _ = ready.send(()); // nobody listens to the later ones
                }
            }
            Ok(())
        };
        read_with(dir.path(), &query, Some(watch), &mut out).unwrap();
    });
    (seen, gaps)
}

#[test]
fn a_follower_sees_every_line_once_over_many_rotations() {
    for (max_size, max_files, slow) in [
        (200_000, 1, false),
        (20_000, 2, true),
        (100_000, 3, false),
        (0, 0, false),
    ] {
        let (seen, gaps) = followed(&options(max_size, max_files), 100_000, slow);
        assert_eq!(gaps, 0, "{max_size} {max_files}");
        let wrong = seen
            .iter()
            .zip(0..)
            .find(|(seen, number)| **seen != *number);
        assert_eq!(
            (wrong, seen.len()),
            (None, 100_000),
            "{max_size} {max_files}"
        );
    }
}

#[test]
fn several_followers_and_readers_do_not_hinder_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = Writer::open(dir.path(), &options(50_000, 2)).unwrap();
    let query = Query {
        follow: true,
        ..Query::default()
    };
    let mut watches = Vec::new();
    let mut alive = Vec::new();
    for _ in 0..3 {
        let (end, writes) = rustix::pipe::pipe().unwrap();
        let mut watch = Watch::new(dir.path(), None).unwrap();
        watch.end = Some(end);
        watches.push(watch);
        alive.push(writes);
    }
    let (dir, query) = (dir.path(), &query);
    let ready = std::sync::Barrier::new(4);
    let ready = &ready;
    std::thread::scope(|scope| {
        let followers: Vec<_> = watches
            .into_iter()
            .map(|watch| {
                scope.spawn(move || {
                    let (mut next, mut is_first) = (0, true);
                    read_with(dir, query, Some(watch), &mut |item| {
                        match item {
                            Item::Entry(entry) => {
                                assert_eq!(entry.text, format!("{next}\n"));
                                next += 1;
                            }
                            Item::Gap => panic!("a gap after {next}"),
                            Item::Pause => {
                                if std::mem::take(&mut is_first) {
                                    ready.wait();
                                }
                            }
                        }
                        Ok(())
                    })
                    .unwrap();
                    next
                })
            })
            .collect();
        scope.spawn(move || {
            ready.wait();
            for number in 0..20_000 {
                writer.write(Stream::Stdout, format!("{number}\n").as_bytes());
            }
            drop(alive);
        });
        for _ in 0..20 {
            let some = texts(dir, &Query::default());
            for pair in some.windows(2) {
                let number = |text: &String| text.trim().parse::<u64>().unwrap();
                assert_eq!(number(&pair[0]) + 1, number(&pair[1]));
            }
        }
        for follower in followers {
            assert_eq!(follower.join().unwrap(), 20_000);
        }
    });
    let kept = std::fs::read_dir(dir).unwrap().count();
    assert!(kept <= 1002, "{kept} files");
}

#[test]
fn nothing_is_kept_with_the_driver_none() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log {
        none: true,
        ..Log::default()
    };
    let mut writer = Writer::open(dir.path(), &log).unwrap();
    writer.write(Stream::Stdout, b"gone\n");
    writer.flush();
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}
