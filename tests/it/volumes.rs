//! `rl volume`: making, listing and removing what outlives containers.

use nix::sys::signal::Signal;

use crate::support::host::Need;
use crate::support::image::{Image, Layer};
use crate::support::{Home, wait_for};

/// Names of the entries of a directory of the store.
fn entries(home: &Home, directory: &str) -> Vec<String> {
    let entries = std::fs::read_dir(home.store().join(directory));
    let mut names: Vec<String> = entries
        .into_iter()
        .flatten()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn volumes_are_made_listed_and_inspected() {
    needs!(Need::Ours); // podman's columns and objects have more
    let home = Home::new();
    home.rl("volume ls").says("DRIVER    VOLUME NAME");
    home.rl("volume create --label team=red --label plain a")
        .says("a");
    home.rl("volume create b").says("b");
    // One that is there stays as it is.
    home.rl("volume create --label team=blue a").says("a");
    let made_up = home.rl("volume create").ok().text().trim().to_owned();
    assert_eq!(made_up.len(), 64);
    for (filter, names) in [
        ("label=team", "a"),
        ("label=team=blue", ""),
        ("name=b --filter label!=team", "b"),
        ("driver=nfs", ""),
        ("dangling=false", ""),
    ] {
        let output = home.rl(&format!("volume ls -q --filter {filter}")).ok();
        let found: Vec<&str> = output
            .lines()
            .into_iter()
            .filter(|name| *name != made_up)
            .collect();
        assert_eq!(found.join(" "), names, "{filter}");
    }
    let volume = &home.rl("volume inspect a").ok().json()[0];
    assert_eq!(volume["Name"], "a");
    assert_eq!(volume["Labels"]["team"], "red");
    let place = volume["Mountpoint"].as_str().unwrap();
    assert!(std::fs::metadata(place).unwrap().is_dir());
    home.rl("volume inspect --format {{.Driver}}/{{.Scope}} a")
        .says("local/local");
    home.rl("events --since 1h --until 0s --filter volume=a --format {{.Action}}")
        .says("create");
}

#[test]
fn wrong_words_about_volumes_are_refused() {
    needs!(Need::Ours);
    let home = Home::new();
    for (line, code, text) in [
        ("volume create ../x", 125, "cannot name a volume"),
        ("volume create --driver nfs x", 125, "local volumes only"),
        ("volume create --opt type=nfs x", 125, "plain directory"),
        ("volume create --label =x x", 125, "no name before"),
        ("volume ls --filter colour=red", 125, "unknown key"),
        ("volume inspect x", 125, "no volume `x`"),
        ("volume rm ..", 125, "no volume `..`"),
        ("volume rm x", 125, "no volume `x`"),
    ] {
        home.rl(line).fails(code).stderr_has(text);
    }
    home.rl("volume rm -f x").says("");
    assert!(entries(&home, "volumes").is_empty());
}

#[test]
fn a_volume_that_a_container_has_is_not_removed() {
    needs!(Need::Ours);
    let home = Home::with_busybox();
    home.rl("create --name one -v kept:/data busybox true").ok();
    home.rl("volume create kept").ok();
    home.rl("volume rm kept").fails(125).stderr_has("one");
    home.rl("volume rm -f kept").fails(125).stderr_has("one");
    home.rl("volume ls -q --filter dangling=true").says("");
    home.rl("volume prune -a -f").ok().stdout_lacks("kept");
    home.rl("rm one").ok();
    home.rl("volume prune -f").ok().stdout_lacks("kept");
    home.rl("volume prune -a -f")
        .ok()
        .stdout_has("Deleted Volumes:\nkept\n");
    assert!(entries(&home, "volumes").is_empty());
}

#[test]
fn an_anonymous_volume_that_another_has_by_name_outlives_its_container() {
    needs!(Need::Ours);
    let home = Home::with_busybox();
    home.rl("run --name one -v /data busybox sh -c")
        .arg("mkdir /data/dir; echo mine >/data/dir/file; chown -R 7:7 /data/dir; chmod 700 /data/dir")
        .ok();
    let name = entries(&home, "volumes").remove(0);
    home.rl(&format!("create --name two -v {name}:/other busybox true"))
        .ok();
    home.rl("rm -v one").ok();
    home.rl("start -a two").ok();
    home.rl(&format!("run --rm -v {name}:/v busybox cat /v/dir/file"))
        .says("mine");
    home.rl("rm two").ok();
    // Nobody has it now, and its files are of another id.
    home.rl("system prune -f").ok();
    assert_eq!(entries(&home, "volumes"), [name.as_str()]);
    home.rl("system prune -f --volumes").ok().stdout_has(&name);
    assert!(entries(&home, "volumes").is_empty());
}

#[test]
fn twenty_at_once_make_one_volume() {
    needs!(Need::Ours);
    let home = Home::new();
    let running: Vec<_> = (0..20)
        .map(|_| home.rl("volume create --label a=b same").spawn())
        .collect();
    for one in running {
        one.wait().code(0).stdout_is("same");
    }
    assert_eq!(entries(&home, "volumes"), ["same"]);
    assert!(entries(&home, "tmp").is_empty());
    let running: Vec<_> = (0..20)
        .map(|_| home.rl("volume rm -f same").spawn())
        .collect();
    let removed = running
        .into_iter()
        .map(|one| one.wait().code(0).text().trim() == "same")
        .filter(|said| *said)
        .count();
    assert_eq!(removed, 1);
    assert!(entries(&home, "volumes").is_empty());
}

#[test]
fn a_removal_that_is_killed_leaves_the_volume_whole_or_nothing_of_it() {
    needs!(Need::Ours);
    let home = Home::with_busybox();
    for command in ["volume rm big", "volume prune -a -f"] {
        home.rl("run --rm -v big:/v busybox sh -c")
            .arg("i=0; while [ $i -lt 3000 ]; do echo x >/v/$i; i=$((i+1)); done")
            .ok();
        let mut running = home.rl(command).spawn();
        // It has begun when the volume is aside.
        wait_for("the removal", || {
            (running.ended() || entries(&home, "volumes").is_empty()).then_some(())
        });
        running.signal(Signal::SIGKILL);
        running.wait();
        home.rl("volume inspect big").fails(125);
        // What is younger may be somebody's work.
        wait_for("the sweep", || {
            home.rl("volume rm -f other").ok();
            entries(&home, "tmp").is_empty().then_some(())
        });
        home.rl("volume create big").says("big");
        assert!(entries(&home, "volumes/big/_data").is_empty());
    }
}

#[test]
fn volumes_from_another_container_are_at_the_same_places() {
    needs!(Need::Ours);
    let home = Home::new();
    let image = Image::on_busybox(vec![
        Layer::new().dir("img", 0o755).file("img/f", 0o644, "image"),
    ])
    .config(serde_json::json!({ "Env": ["PATH=/bin"], "Volumes": { "/img": {}, "/anon": {} } }));
    home.load(&image, "voluminous");
    home.file("host/data", "host");
    let host = home.path().join("host").display().to_string();
    home.rl("create --name one -v named:/named --tmpfs /memory -v")
        .arg(format!("{host}:/host"))
        .args(["voluminous", "true"])
        .ok();
    home.rl("run --rm --volumes-from one busybox-of-nobody true")
        .fails(125);
    home.rl("run --rm --network none --volumes-from one voluminous sh -c")
        .arg("cat /img/f /host/data; echo a >/named/a; echo b >/anon/b; ls -d /memory 2>/dev/null; true")
        .ok()
        .stdout_is("imagehost");
    // It stays with the one whose it is; a second one sees it, and may be kept from writing.
    home.rl("run --name two --network none --volumes-from one:ro voluminous sh -c")
        .arg("cat /named/a /anon/b; echo x >/anon/x || echo closed; echo x >/host/x || echo closed")
        .ok()
        .stdout_is("a\nb\nclosed\nclosed");
    // One's own counts before it; of several the last.
    home.rl("create --name three -v other:/named voluminous true")
        .ok();
    home.rl("run --rm --network none --volumes-from one --volumes-from three -v mine:/anon voluminous sh -c")
        .arg("ls /named /anon; cat /host/data")
        .ok()
        .stdout_is("/anon:\n\n/named:\nhost");
    // While one container has it, it is not removed.
    home.rl("rm -v one").ok();
    home.rl("run --rm --network none --volumes-from two voluminous cat /anon/b")
        .says("b");
    let anonymous = home
        .rl("inspect -f")
        .arg("{{range .Mounts}}{{if eq .Destination \"/anon\"}}{{.Name}}{{end}}{{end}}")
        .arg("two")
        .ok();
    let anonymous = anonymous.text().trim().to_owned();
    home.rl("volume inspect").arg(&anonymous).ok();
    home.rl("rm -v two three").ok();
    home.rl("volume prune -f").ok();
    home.rl("volume inspect").arg(&anonymous).fails(125);
    for (word, expected) in [
        ("nobody", "nobody"),
        ("two:O", "unknown option `O`"),
        (":ro", "no container is named"),
        ("two:ro,rw", "exclude each other"),
    ] {
        home.rl("create --volumes-from")
            .args([word, "voluminous"])
            .fails(125)
            .stderr_has(expected);
    }
    home.rl("ps -aq").says("");
}
