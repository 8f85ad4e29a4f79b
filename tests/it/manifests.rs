//! `rl manifest`: lists of images are made here, pushed, and read by others.

use serde_json::{Value, json};

use crate::support::host::Need;
use crate::support::image::{Layer, architecture};
use crate::support::{Home, registry};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

/// What skopeo finds at the registry.
fn raw(home: &Home, name: &str) -> Value {
    home.program("skopeo")
        .args(["inspect", "--raw", "--tls-verify=false"])
        .arg(format!("docker://{name}"))
        .ok()
        .json()
}

/// `busybox` for this machine, and `other` for one that it is not.
fn two() -> (Home, &'static str) {
    let home = Home::with_busybox();
    let foreign = if architecture() == "s390x" {
        "ppc64le"
    } else {
        "s390x"
    };
    let tar = home.file(
        "other.tar",
        Layer::new().file("here", 0o644, "other").finish(),
    );
    home.rl(&format!("import -q --platform linux/{foreign}"))
        .arg(tar)
        .arg("other")
        .ok();
    (home, foreign)
}

#[test]
fn a_list_of_two_images_is_pushed_and_others_read_it() {
    needs!(Need::Ours, Need::Registry);
    let (home, foreign) = two();
    let name = format!("{}:list", registry::fresh_name(&home));
    home.rl("manifest exists l").fails(1);
    let empty = home.rl("manifest create l").ok();
    assert_eq!(empty.text().len(), 64, "{empty:?}");
    home.rl("manifest exists l").ok();
    home.rl("manifest add l busybox").ok();
    home.rl("manifest add --annotation from=here --variant v9 l other")
        .ok();
    home.rl("manifest annotate --annotation more=words l other")
        .ok();
    let shown = home.rl("manifest inspect l").ok().json();
    assert_eq!(
        shown["manifests"][0]["platform"]["architecture"],
        architecture()
    );
    assert_eq!(
        shown["manifests"][1]["platform"],
        json!({"os": "linux", "architecture": foreign, "variant": "v9"})
    );
    assert_eq!(
        shown["manifests"][1]["annotations"],
        json!({"from": "here", "more": "words"})
    );
    let file = home.path().join("digest");
    let pushed = home
        .rl("manifest push --digestfile")
        .arg(&file)
        .arg("l")
        .arg(format!("docker://{name}"))
        .ok();
    assert_eq!(std::fs::read_to_string(&file).unwrap(), pushed.text());

    let index = raw(&home, &name);
    assert_eq!(index["mediaType"], INDEX);
    assert_eq!(index["manifests"], shown["manifests"]);
    // All of it is there, for skopeo checks every digest.
    home.program("skopeo")
        .args(["copy", "--quiet", "--all", "--src-tls-verify=false"])
        .arg(format!("docker://{name}"))
        .arg(format!("dir:{}", home.path().join("copy").display()))
        .ok();
    // And each machine gets its own.
    let there = Home::new();
    there
        .rl("run --rm --network none")
        .arg(&name)
        .args(["echo", "own"])
        .says("own");
    there
        .rl(&format!("pull -q --platform linux/{foreign}/v9"))
        .arg(&name)
        .ok();
    there
        .rl("image inspect --format {{.Architecture}}")
        .arg(&name)
        .says(foreign);
    let asked = there.rl("manifest inspect").arg(&name).ok().json();
    assert_eq!(asked, index, "what a registry has is shown as it is");
}

#[test]
fn podman_reads_a_list() {
    needs!(
        Need::Ours,
        Need::Registry,
        Need::Ranges,
        Need::Program("podman")
    );
    let (home, foreign) = two();
    let name = format!("{}:list", registry::fresh_name(&home));
    home.rl("manifest create l busybox other").ok();
    let conf = format!(
        "[[registry]]\nlocation = '{}'\ninsecure = true\n",
        registry::plain()
    );
    let conf = home.file("registries.conf", conf);
    // Where it looks for signatures: not in root's own directory, which it may not read.
    let places = format!(
        "default-docker:\n  sigstore: file://{}\n",
        home.path().join("none").display()
    );
    home.file("home/.config/containers/registries.d/default.yaml", places);
    for (format, kind) in [("oci", INDEX), ("v2s2", LIST)] {
        home.rl(&format!("manifest push -q -f {format} l"))
            .arg(&name)
            .ok();
        assert_eq!(raw(&home, &name)["mediaType"], kind);
        let podman = |words: &[&str]| {
            // As root of a user namespace it leaves no process of its own behind.
            home.program("unshare")
                .env("CONTAINERS_REGISTRIES_CONF", &conf)
                .args(["--map-auto", "--map-root-user", "podman"])
                .args(["--root", "pm", "--runroot", "pmrun", "--tmpdir", "pmtmp"])
                .args(["--storage-driver", "vfs"])
                .args(words)
                .cwd(home.path())
                .ok()
        };
        let seen = podman(&["manifest", "inspect", &name]).json();
        assert_eq!(seen["manifests"][1]["platform"]["architecture"], foreign);
        podman(&["pull", "-q", "--arch", foreign, &name]);
    }
    home.sh("unshare --map-auto --map-root-user rm -rf pm pmrun pmtmp")
        .cwd(home.path())
        .ok();
}

#[test]
fn images_of_a_registry_go_to_another_one_without_being_pulled() {
    needs!(Need::Ours, Need::Registry);
    let mut home = Home::new();
    home.set("SSL_CERT_FILE", registry::authority());
    let name = format!("{}:copied", registry::fresh_name(&home));
    let from = format!("{}/busybox", registry::tls());
    home.rl("manifest create").args([&name, &from]).ok();
    let digest = home.rl("manifest push").arg(&name).ok().text().to_owned();
    home.rl("images -q").says("");
    home.rl("run --rm --network none")
        .arg(format!("{}@{digest}", name.replace(":copied", "")))
        .args(["echo", "copied"])
        .says("copied");
    // A list of a list's images, in the same registry: nothing is sent.
    let other = name.replace(":copied", "/other:1");
    home.rl("manifest create --all")
        .args([&other, &format!("docker://{name}")])
        .ok();
    home.rl("manifest push")
        .arg(&other)
        .ok()
        .stderr_has("Mounted");
    assert_eq!(
        raw(&home, &other)["manifests"],
        raw(&home, &name)["manifests"]
    );
    home.rl("system check").ok();
    assert_eq!(
        home.sh("ls $HOME/.local/share/rl/tmp | wc -l").ok().text(),
        "0"
    );
}

#[test]
fn lists_are_changed_and_removed() {
    needs!(Need::Ours);
    let (home, _) = two();
    home.rl("manifest create me/l:1 busybox").ok();
    home.rl("manifest create me/l:1")
        .fails(125)
        .stderr_has("--amend");
    home.rl("manifest create --amend --annotation a=b me/l:1 other")
        .ok();
    let shown = |home: &Home| home.rl("manifest inspect me/l:1").ok().json();
    assert_eq!(shown(&home)["manifests"].as_array().unwrap().len(), 2);
    assert_eq!(shown(&home)["annotations"]["a"], "b");
    home.rl("manifest annotate --index --annotation c=d me/l:1")
        .ok();
    assert_eq!(shown(&home)["annotations"]["c"], "d");
    let digest = shown(&home)["manifests"][0]["digest"]
        .as_str()
        .unwrap()
        .to_owned();
    home.rl("manifest remove me/l:1").arg(&digest).ok();
    home.rl("manifest remove me/l:1")
        .arg(&digest)
        .fails(125)
        .stderr_has("has no image");
    assert_eq!(shown(&home)["manifests"].as_array().unwrap().len(), 1);
    home.rl("manifest ls").says("me/l:1");
    home.rl("manifest add nothing busybox")
        .fails(125)
        .stderr_has("no manifest list");
    home.rl("manifest add me/l:1 oci:./x")
        .fails(125)
        .stderr_has("rl load");
    home.rl("manifest push me/l:1 oci:./x")
        .fails(125)
        .stderr_has("registry only");
    home.rl("manifest push -f v2s2 me/l:1 127.0.0.1:1/x")
        .fails(125)
        .stderr_has("no annotations");
    home.rl("manifest rm me/l:1 nothing").fails(125);
    home.rl("manifest ls").says("");
    home.rl("manifest exists me/l:1").fails(1);
    // A damaged one is told.
    home.rl("manifest create l busybox").ok();
    home.sh("for list in $HOME/.local/share/rl/manifests/*.json; do echo '{' >$list; done")
        .ok();
    home.rl("manifest inspect l")
        .fails(125)
        .stderr_has("is damaged");
    home.rl("system check").fails(1).stdout_has("manifest list");
}
