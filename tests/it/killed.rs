//! Work on images that is killed at any moment, or finds the disk full: nothing that was there is lost, nothing half-made counts,
//! and the next command works. `RL_TEST_ROUNDS` raises the number of rounds.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::crash::{litter, processes, random, rounds, verify};
use crate::support::host::Need;
use crate::support::image::{Image, Layer};
use crate::support::{Home, Run, registry, wait_for};

/// Layers with some megabytes that no packing makes small.
fn large(seed: u32) -> Image {
    let layers = (0..3)
        .map(|layer| {
            (0..20_u32).fold(Layer::new(), |tar, file| {
                let noise: Vec<u8> = (0..60_000_u32)
                    .map(|n| {
                        let n = n.wrapping_add(seed.wrapping_mul(7919) + layer * 131 + file);
                        (n.wrapping_mul(2_654_435_761).rotate_left(n % 29)).to_le_bytes()[1]
                    })
                    .collect();
                tar.file(&format!("f{layer}-{file}"), 0o644, noise)
            })
        })
        .collect();
    Image::on_busybox(layers)
}

/// What each kind of work is, and what is true after it was killed and after it was done.
const WORK: [&str; 12] = [
    "push",
    "save",
    "save-dir",
    "load",
    "import",
    "pull",
    "pull-drop",
    "rmi",
    "list",
    "prune",
    "convert",
    "share",
];

struct Scene {
    home: Home,
    name: String,
}

impl Scene {
    fn new() -> Self {
        let home = Home::with_busybox();
        home.load(&large(1), "kept");
        home.file("other.tar", large(2).docker_archive("other:latest"));
        home.file(
            "root.tar",
            Layer::new().with_busybox().file("x", 0o644, "x").finish(),
        );
        let name = registry::fresh_name(&home);
        home.rl("push -q kept").arg(format!("{name}/pulled:1")).ok();
        Self { home, name }
    }

    /// As it is before the work is done.
    fn prepare(&self, work: &str) {
        let away = |name: &str| drop(self.home.rl("rmi -f").arg(name).run());
        match work {
            "load" => away("other"),
            "import" => away("imported"),
            "pull" | "pull-drop" => {
                away("kept");
                away(&format!("{}/pulled:1", self.name));
            }
            "prune" => {
                self.home
                    .rl("load -q -i other.tar")
                    .cwd(self.home.path())
                    .ok();
                self.home.rl("untag other").ok();
            }
            "convert" => drop(std::fs::remove_file(self.home.path().join("kept.sqsh"))),
            "share" => drop(std::fs::remove_dir_all(self.home.path().join("shared"))),
            "rmi" => drop(self.home.rl("tag kept more").run()),
            _ => {}
        }
        if !work.starts_with("pull")
            && self.home.rl("image inspect kept").run().status.code() != Some(0)
        {
            self.home
                .rl("pull -q")
                .arg(format!("{}/pulled:1", self.name))
                .ok();
            self.home
                .rl("tag")
                .args([&format!("{}/pulled:1", self.name), "kept"])
                .ok();
        }
    }

    fn work(&self, work: &str, round: u64) -> Run {
        let rl = |line: &str| self.home.rl(line).cwd(self.home.path());
        match work {
            "push" => rl("push -q kept").arg(format!("{}/r{round}:1", self.name)),
            "save" => rl("save -o saved.tar kept"),
            "save-dir" => rl("save --format oci-dir -o saved kept"),
            "load" => rl("load -q -i other.tar"),
            "import" => rl("import -q root.tar imported"),
            "pull" => rl("pull -q").arg(format!("{}/pulled:1", self.name)),
            "pull-drop" => rl("pull -q --blobs=drop").arg(format!("{}/pulled:1", self.name)),
            "prune" => rl("image prune -f"),
            "convert" => rl("image convert -q kept kept.sqsh"),
            "share" => rl("image share -q kept shared"),
            "rmi" => rl("rmi -f more busybox"),
            "list" => rl("manifest create --amend lists kept"),
            other => panic!("no such work: {other}"),
        }
    }

    /// It is done now, and what it made is whole.
    fn done(&self, work: &str, round: u64) {
        let home = &self.home;
        match work {
            "push" => {
                let name = format!("{}/r{round}:1", self.name);
                home.program("skopeo")
                    .args(["copy", "-q", "--src-tls-verify=false"])
                    .arg(format!("docker://{name}"))
                    .arg(format!("dir:{}", home.path().join("back").display()))
                    .ok();
            }
            "save" => drop(home.rl("load -q -i saved.tar").cwd(home.path()).ok()),
            "save-dir" => drop(home.rl("load -q -i saved").cwd(home.path()).ok()),
            "load" => home
                .rl("run --rm --network none other test -s /f2-19")
                .says(""),
            "import" => home
                .rl("run --rm --network none imported test -s /x")
                .says(""),
            "prune" => home.rl("images -q --filter dangling=true").says(""),
            "convert" => home
                .rl("run --rm --network none ./kept.sqsh test -s /f2-19")
                .cwd(home.path())
                .says(""),
            "share" => {
                let shared = |line: &str| {
                    home.rl("--root shared")
                        .args(line.split(' '))
                        .cwd(home.path())
                };
                shared("images --format {{.Repository}}").says("kept");
                shared("system check").ok();
            }
            "pull" | "pull-drop" => home
                .rl("run --rm --network none --pull never")
                .arg(format!("{}/pulled:1", self.name))
                .args(["test", "-s", "/f2-19"])
                .says(""),
            "rmi" => {
                home.load_busybox();
                home.rl("image inspect more").fails(125);
            }
            "list" => drop(home.rl("manifest inspect lists").ok()),
            other => panic!("no such work: {other}"),
        }
    }
}

#[test]
fn work_on_images_that_is_killed_loses_nothing() {
    needs!(Need::Ours, Need::Registry);
    let scene = Scene::new();
    let home = &scene.home;
    let begun = Instant::now();
    let (mut killed, mut took) = (0_u64, [Duration::ZERO; WORK.len()]);
    let count = rounds(6 * WORK.len() as u64);
    for round in 0..count {
        // A slow machine does fewer, but all kinds; whoever asks for a number gets it.
        let is_enough = round >= 3 * WORK.len() as u64 && begun.elapsed() > Duration::from_secs(40);
        if std::env::var_os("RL_TEST_ROUNDS").is_none() && is_enough {
            break;
        }
        let kind = usize::try_from(round).unwrap() % WORK.len();
        let work = WORK[kind];
        scene.prepare(work);
        if took[kind].is_zero() {
            // How long it takes when nobody disturbs it.
            let since = Instant::now();
            scene.work(work, round).ok();
            took[kind] = since.elapsed();
            scene.done(work, round);
            continue;
        }
        let most = u64::try_from(took[kind].as_micros()).unwrap().max(1000);
        let mut running = scene.work(work, round).spawn();
        std::thread::sleep(Duration::from_micros(random(most)));
        if !running.ended() {
            running.signal(Signal::SIGKILL);
            killed += 1;
        }
        running.wait();
        wait_for("the end of all that worked for it", || {
            processes(home).is_empty().then_some(())
        });
        verify(home);
        // Finished layers that no image has yet are all that there is to find.
        home.rl("system check --repair").run();
        home.rl("system check").ok();
        // What was there is there: nothing but what is removed on purpose.
        if !work.starts_with("pull") {
            home.rl("run --rm --network none --pull never kept test -s /f2-19")
                .says("");
        }
        scene.prepare(work);
        scene.work(work, round).ok();
        scene.done(work, round);
    }
    eprintln!("{killed} of {count} were killed");
    assert!(
        killed > count / 8,
        "only {killed} of {count} were killed in time"
    );
    home.rl("pull -q")
        .arg(format!("{}/pulled:1", scene.name))
        .ok();
    home.rl("system check --repair").run();
    home.rl("system check").ok();
    home.rl("image prune -f").ok();
    assert_eq!(litter(home), "");
    // But for the moment between its first name and its last.
    let beside = home
        .sh("find . -maxdepth 1 -name '.saved.tar*' | wc -l")
        .cwd(home.path())
        .ok();
    assert!(beside.text().parse::<u32>().unwrap() <= 1, "{beside:?}");
}

/// Writes until there is no room.
fn fill(path: &std::path::Path) {
    use std::io::Write as _;
    let mut file = std::fs::File::options()
        .append(true)
        .create(true)
        .open(path)
        .unwrap();
    for size in [1 << 20, 4096, 1] {
        while file
            .write(&vec![0; size])
            .is_ok_and(|written| written == size)
        {}
    }
}

#[test]
fn on_a_full_disk_images_stay_and_can_be_removed() {
    needs!(Need::Ours, Need::Registry, Need::SmallDisk);
    let mut home = Home::new();
    let disk = PathBuf::from(std::env::var("RL_TEST_SMALL_DISK").unwrap());
    let unique = home
        .path()
        .file_name()
        .unwrap()
        .to_str()
        .unwrap()
        .to_owned();
    let store = disk.join(&unique);
    let filler = disk.join(format!("filler-{unique}"));
    let name = format!("{}:big", registry::fresh_name(&home));
    // In a store with room.
    home.load(&large(3), "big");
    home.rl("push -q big").arg(&name).ok();
    let archive = home.file("big.tar", large(3).docker_archive("big:latest"));
    let root = home.file("root.tar", large(3).docker_archive("x:1"));
    home.set("RL_ROOT", &store);
    home.load_busybox();
    home.rl("tag busybox other").ok();
    home.rl("manifest create list busybox").ok();
    let before = home.rl("manifest inspect list").ok().text().to_owned();
    fill(&filler);

    let cwd = home.path().to_owned();
    let is_full = |line: &str, words: &[&str]| {
        let output = home.rl(line).args(words).cwd(&cwd).fails(125);
        output.stderr_has_one_of(&["full", "No space left", "quota"]);
        verify_small(&store);
    };
    let (archive, root) = (archive.to_str().unwrap(), root.to_str().unwrap());
    let saved = disk.join(format!("saved-{unique}"));
    let squash = disk.join(format!("{unique}.sqsh"));
    let shared = disk.join(format!("shared-{unique}"));
    for _ in 0..3 {
        is_full("pull", &[&name]);
        is_full("load -i", &[archive]);
        is_full("import", &[root]);
        is_full("save -o", &[saved.to_str().unwrap(), "busybox"]);
        assert!(!saved.exists());
        is_full("image convert -q busybox", &[squash.to_str().unwrap()]);
        assert!(!squash.exists());
        is_full("image share -q busybox", &[shared.to_str().unwrap()]);
        assert!(!shared.join("images/index.json").exists());
        is_full("tag busybox", &["third"]);
        is_full("manifest create more", &["busybox"]);
        is_full("manifest annotate --index --annotation", &["a=b", "list"]);
    }
    home.rl("manifest inspect list").says(&before);
    home.rl("system check --quick").ok();
    home.rl("run --rm --network none --pull never busybox echo here")
        .run();
    // Half a disk: it is full in the middle of a layer.
    let file = std::fs::File::options().write(true).open(&filler).unwrap();
    for free in [1_u64 << 20, 2 << 20] {
        fill(&filler);
        file.set_len(file.metadata().unwrap().len() - free).unwrap();
        is_full("pull", &[&name]);
        is_full("load -i", &[archive]);
        home.rl("image prune -f").ok();
    }
    fill(&filler);
    home.rl("system check --quick").ok();
    // A push needs no room.
    let target = format!("{}/pushed:1", registry::fresh_name(&home));
    home.rl("push -q busybox").arg(&target).ok();
    // And there is a way out.
    home.rl("rmi other").ok();
    home.rl("rmi busybox").ok();
    home.rl("images -q").says("");
    home.rl("system check --quick").ok();
    drop(file);
    std::fs::remove_file(&filler).unwrap();
    home.load_busybox();
    home.rl("run --rm --network none busybox echo fine")
        .says("fine");
    home.rl("system check").ok();
    home.rl("system reset -f").ok();
    let _ = std::fs::remove_dir_all(&store);
}

/// Nothing half-made is in the store.
fn verify_small(store: &std::path::Path) {
    let left = |place: &str| std::fs::read_dir(store.join(place)).map_or(0, Iterator::count);
    assert_eq!(left("layers"), 1, "only BusyBox's");
    let index = std::fs::read(store.join("images/index.json")).unwrap();
    let index: serde_json::Value = serde_json::from_slice(&index).unwrap();
    assert_eq!(index["manifests"].as_array().unwrap().len(), 2);
}
