//! `--blobs=drop`: layers as they were transferred go when they are unpacked, and come again when they are needed.

use crate::support::host::Need;
use crate::support::image::{Image, Layer};
use crate::support::{Home, registry};

/// The name of an image with two layers in the registry.
fn remote(home: &Home) -> String {
    let image = Image::on_busybox(vec![Layer::new().file("mark", 0o644, "there")]);
    home.load(&image, "made");
    let name = format!("{}:1", registry::fresh_name(home));
    home.rl("push -q made").arg(&name).ok();
    name
}

/// Bytes of everything in the blobs of a store.
fn blobs(home: &Home) -> (usize, u64) {
    let entries = std::fs::read_dir(home.store().join("images/blobs/sha256")).unwrap();
    let sizes: Vec<u64> = entries
        .map(|entry| entry.unwrap().metadata().unwrap().len())
        .collect();
    (sizes.len(), sizes.iter().sum())
}

#[test]
fn dropped_blobs_take_no_space_and_the_image_runs() {
    needs!(Need::Ours, Need::Registry);
    let maker = Home::with_busybox();
    let name = remote(&maker);
    let home = Home::new();
    home.rl("pull -q --blobs drop").arg(&name).ok();
    // The manifest and the configuration.
    assert_eq!(blobs(&home).0, 2);
    assert!(blobs(&home).1 < 10_000);
    home.rl("run --rm --network none")
        .arg(&name)
        .args(["cat", "/mark"])
        .says("there");
    home.rl("system check").ok();
    home.rl("pull -q").arg(&name).env("RL_TEST", "").ok();
    assert_eq!(
        blobs(&home).0,
        4,
        "keeping is what happens when nobody says otherwise"
    );
    home.rl("system check").ok();
    // Those that are there go, too.
    home.rl("pull -q --blobs drop").arg(&name).ok();
    assert_eq!(blobs(&home).0, 2);
    // The file settles it for all commands, and a flag is stronger.
    let other = Home::new();
    other.file("home/.config/rl/config.toml", "blobs = \"drop\"\n");
    other
        .rl("run --rm --network none")
        .arg(&name)
        .args(["cat", "/mark"])
        .ok()
        .stdout_is("there");
    assert_eq!(blobs(&other).0, 2);
    other
        .rl("run --rm --network none --pull always --blobs keep")
        .arg(&name)
        .args(["cat", "/mark"])
        .ok();
    assert_eq!(blobs(&other).0, 4);
    other
        .rl("pull --blobs maybe")
        .arg(&name)
        .fails(125)
        .stderr_has("--blobs");
}

#[test]
fn push_and_save_of_a_dropped_image_are_byte_true() {
    needs!(Need::Ours, Need::Registry);
    let maker = Home::with_busybox();
    let name = remote(&maker);
    let home = Home::new();
    home.rl("pull -q --blobs drop").arg(&name).ok();
    let raw = |name: &str| {
        home.program("skopeo")
            .args(["inspect", "--raw", "--tls-verify=false"])
            .arg(format!("docker://{name}"))
            .ok()
            .text()
            .to_owned()
    };
    // The same registry has the blobs; another one gets them from there.
    let copy = format!("{}/copy:1", name.trim_end_matches(":1"));
    home.rl("push -q").args([&name, &copy]).ok();
    assert_eq!(raw(&copy), raw(&name));
    let far = format!(
        "{}/far{}",
        registry::auth(),
        copy.split_once('/').unwrap().1
    );
    home.rl("push -q --creds user:secret")
        .args([&name, &far])
        .ok();
    home.program("skopeo")
        .args([
            "inspect",
            "--raw",
            "--tls-verify=false",
            "--creds=user:secret",
        ])
        .arg(format!("docker://{far}"))
        .says(&raw(&name));
    assert_eq!(blobs(&home).0, 2);
    home.rl("save -o saved.tar")
        .arg(&name)
        .ok()
        .stderr_has("fetched again");
    assert_eq!(blobs(&home).0, 2);
    maker.rl("save -o kept.tar").arg(&name).run();
    let there = Home::new();
    there.rl("load -i").arg(home.path().join("saved.tar")).ok();
    let id = |home: &Home| {
        home.rl("image inspect -f {{.Id}}")
            .arg(&name)
            .ok()
            .text()
            .to_owned()
    };
    assert_eq!(id(&there), id(&home));
    // What stands on it can be pushed as well.
    home.rl("create --name c --network none").arg(&name).ok();
    home.rl("cp")
        .arg(home.file("new", "new"))
        .arg("c:/new")
        .ok();
    home.rl("commit -q c committed").ok();
    let committed = format!("{}/committed:1", registry::fresh_name(&there));
    home.rl("push -q committed").arg(&committed).ok();
    there
        .rl("run --rm --network none")
        .arg(&committed)
        .args(["cat", "/mark", "/new"])
        .says("therenew");
}

#[test]
fn a_dropped_blob_that_is_nowhere_is_said_and_the_image_still_runs() {
    needs!(Need::Ours, Need::Registry);
    let maker = Home::with_busybox();
    let name = remote(&maker);
    let line = registry::Line::cut(&registry::plain(), u64::MAX, 0);
    let near = name.replace(&registry::plain(), &line.address().to_string());
    let mut home = Home::new();
    home.set("RL_INSECURE_REGISTRIES", line.address().to_string());
    home.rl("pull -q --blobs drop").arg(&near).ok();
    line.sever();
    home.rl("save -o saved.tar")
        .arg(&near)
        .fails(125)
        .stderr_has("was dropped")
        .stderr_has("rl import");
    assert!(!home.path().join("saved.tar").exists());
    home.rl("run --rm --network none")
        .arg(&near)
        .args(["cat", "/mark"])
        .says("there");
    home.rl("system check").ok();
}
