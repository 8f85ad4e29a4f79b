//! `rl save` and `load`, and images in files and directories, against skopeo, podman and umoci.

use serde_json::Value;

use crate::support::host::Need;
use crate::support::image::{Compression, Image, Layer};
use crate::support::{Home, registry};

/// Two images: gzip as it came from a registry, zstd from another tool's layout.
fn two_images() -> Home {
    let home = Home::new();
    for (name, compression) in [("one", Compression::Gzip), ("two", Compression::Zstd)] {
        let layer = Layer::new().file(name, 0o644, vec![b'x'; 70_000]);
        let layout = home.dir(&format!("made-{name}"));
        Image::on_busybox(vec![layer]).oci_layout(
            &layout,
            &format!("{name}.example/{name}:1"),
            compression,
        );
        home.rl("load -q -i").arg(&layout).ok().stdout_has(name);
    }
    home
}

fn manifest_digest(home: &Home, name: &str) -> String {
    let index = std::fs::read(home.store().join("images/index.json")).unwrap();
    let index: Value = serde_json::from_slice(&index).unwrap();
    let entries = index["manifests"].as_array().unwrap();
    let named = |entry: &&Value| {
        entry["annotations"]["org.opencontainers.image.ref.name"].as_str() == Some(name)
    };
    entries
        .iter()
        .find(named)
        .unwrap_or_else(|| panic!("{name} is not in {entries:?}"))["digest"]
        .as_str()
        .unwrap()
        .to_owned()
}

const ONE: &str = "one.example/one:1";
const TWO: &str = "two.example/two:1";

/// What skopeo says is there, by the digest of its manifest.
fn skopeo_digest(home: &Home, place: &str) -> String {
    home.program("skopeo")
        .args(["inspect", "--format", "{{.Digest}}", place])
        .ok()
        .text()
        .to_owned()
}

#[test]
fn saved_images_come_back_byte_for_byte_in_every_format() {
    needs!(Need::Ours);
    let home = two_images();
    for format in ["docker-archive", "oci-archive", "oci-dir"] {
        let place = home.path().join(format);
        home.rl("save --format")
            .arg(format)
            .arg("-o")
            .arg(&place)
            .args([ONE, TWO])
            .ok();
        let other = Home::new();
        let output = other.rl("load -i").arg(&place).ok();
        output.stdout_has(ONE).stdout_has(TWO);
        for name in [ONE, TWO] {
            assert_eq!(
                manifest_digest(&home, name),
                manifest_digest(&other, name),
                "{format}"
            );
            other
                .rl("run --rm --pull never")
                .args([name, "echo", "back"])
                .says("back");
        }
    }
    // Through a pipe; never to a terminal.
    home.sh(&format!("$RL save {ONE} {TWO} | $RL load"))
        .ok()
        .stdout_has(TWO);
    let mut terminal = home.rl("save").arg(ONE).in_terminal();
    terminal.wait_for("is a terminal");
    assert_eq!(terminal.wait().code(), Some(125));
    // A name that fails leaves what was there.
    let kept = home.file("kept.tar", "old");
    home.rl("save -o")
        .arg(&kept)
        .arg("nobody.example/x")
        .fails(125);
    assert_eq!(std::fs::read_to_string(&kept).unwrap(), "old");
    home.rl("save --format docker-dir -o")
        .arg(home.path().join("d"))
        .args([ONE, TWO])
        .fails(125);
}

#[test]
fn other_tools_read_what_is_saved() {
    needs!(Need::Ours, Need::Registry);
    let home = two_images();
    let path = |name: &str| home.path().join(name).display().to_string();
    let (docker, oci, layout, dir) = (path("d.tar"), path("o.tar"), path("layout"), path("dir"));
    home.rl("save -o").args([&docker, ONE, TWO]).ok();
    home.rl("save --format oci-archive -o")
        .args([&oci, ONE])
        .ok();
    home.rl("save --format oci-dir -o")
        .args([&layout, ONE])
        .ok();
    home.rl("save --format docker-dir -o")
        .args([&dir, ONE])
        .ok();
    let wanted = manifest_digest(&home, ONE);
    for place in [format!("oci-archive:{oci}"), format!("oci:{layout}:{ONE}")] {
        assert_eq!(skopeo_digest(&home, &place), wanted, "{place}");
    }
    for (number, place) in [
        format!("docker-archive:{docker}:{ONE}"),
        format!("docker-archive:{docker}:{TWO}"),
        format!("dir:{dir}"),
    ]
    .iter()
    .enumerate()
    {
        // Copied, so that every layer is read and compared with its DiffID.
        let to = home.path().join(format!("copy-{number}"));
        home.program("skopeo")
            .args(["copy", "--quiet", place])
            .arg(format!("oci:{}:x", to.display()))
            .ok();
    }
    home.program("umoci")
        .args(["unpack", "--rootless", "--image"])
        .arg(format!("{layout}:{ONE}"))
        .arg(home.path().join("unpacked"))
        .ok();
    assert!(home.path().join("unpacked/rootfs/one").is_file());
    // And back from what they make of it.
    for (source, name) in [("copy-0", "x"), ("copy-1", "x")] {
        let other = Home::new();
        let source = format!("oci:{}:{name}", path(source));
        other
            .rl("run --rm")
            .args([&source, "echo", "read"])
            .ok()
            .stdout_is("read");
    }
    let made = path("skopeo-dir");
    home.program("skopeo")
        .args(["copy", "--quiet"])
        .arg(format!("oci-archive:{oci}"))
        .arg(format!("dir:{made}"))
        .ok();
    let other = Home::new();
    other
        .rl("run --rm")
        .arg(format!("dir:{made}"))
        .args(["echo", "dir"])
        .ok()
        .stdout_is("dir");
    let archive = path("skopeo.tar");
    home.program("skopeo")
        .args(["copy", "--quiet"])
        .arg(format!("oci-archive:{oci}"))
        .arg(format!("docker-archive:{archive}:some.example/name:2"))
        .ok();
    other
        .rl("load -i")
        .arg(&archive)
        .ok()
        .stdout_is("Loaded image: some.example/name:2");
}

#[test]
fn a_prefix_says_where_an_image_comes_from_and_goes_to() {
    needs!(Need::Ours, Need::Registry);
    let home = two_images();
    let path = |name: &str| home.path().join(name).display().to_string();
    let wanted = manifest_digest(&home, ONE);
    let layout = path("layout");
    for (target, source) in [
        (format!("oci:{layout}:first"), format!("oci:{layout}:first")),
        (
            format!("oci-archive:{}", path("o.tar")),
            format!("oci-archive:{}", path("o.tar")),
        ),
        (
            format!("docker-archive:{}:re.named/x:2", path("d.tar")),
            format!("docker-archive:{}", path("d.tar")),
        ),
        (
            format!("dir:{}", path("flat")),
            format!("dir:{}", path("flat")),
        ),
    ] {
        home.rl("push").args([ONE, &target]).ok().stdout_is(&wanted);
        let other = Home::new();
        let id = other.rl("pull -q").arg(&source).ok().text().to_owned();
        other
            .rl("run --rm --pull never")
            .args([&id, "echo", "there"])
            .ok()
            .stdout_is("there");
    }
    // A second image beside the first one, and the first one replaced.
    home.rl("push")
        .args([TWO, &format!("oci:{layout}:second")])
        .ok();
    home.rl("push")
        .args([TWO, &format!("oci:{layout}:first")])
        .ok();
    let first = skopeo_digest(&home, &format!("oci:{layout}:first"));
    assert_eq!(first, skopeo_digest(&home, &format!("oci:{layout}:second")));
    home.rl("pull").arg(format!("oci:{layout}")).ok();
    home.rl("pull")
        .arg(format!("oci:{layout}:third"))
        .fails(125)
        .stderr_has("third");
    // A directory of somebody else stays as it is.
    home.file("mine/file", "x");
    home.rl("push")
        .args([ONE, &format!("dir:{}", path("mine"))])
        .fails(125)
        .stderr_has("not empty");
    let name = format!("docker://{}", registry::fresh_name(&home));
    home.rl("push").args([ONE, &name]).ok();
    home.rl("pull").arg(&name).ok();
}

#[test]
fn what_is_no_image_is_refused_by_its_kind() {
    needs!(Need::Ours);
    let home = Home::new();
    home.file("empty/file", "x");
    home.rl("load -i")
        .arg(home.path().join("empty"))
        .fails(125)
        .stderr_has("oci-layout");
    let layout = home.dir("artifact");
    Image::busybox().oci_layout(&layout, "a.example/a:1", Compression::Gzip);
    let manifest = serde_json::json!({
        "schemaVersion": 2, "artifactType": "application/vnd.example.chart",
        "config": crate::support::image::blob(&layout, "application/vnd.oci.empty.v1+json", b"{}"),
        "layers": [],
    });
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let entry = crate::support::image::blob(&layout, kind, manifest.to_string().as_bytes());
    let index = serde_json::json!({ "schemaVersion": 2, "manifests": [entry] });
    std::fs::write(layout.join("index.json"), index.to_string()).unwrap();
    home.rl("load -i")
        .arg(&layout)
        .fails(125)
        .stderr_has("application/vnd.example.chart");
    // A link in a layout leads nowhere outside of it.
    let secret = home.file("secret.json", "{\"schemaVersion\": 2, \"manifests\": []}");
    std::fs::remove_file(layout.join("index.json")).unwrap();
    std::os::unix::fs::symlink(&secret, layout.join("index.json")).unwrap();
    home.rl("load -i")
        .arg(&layout)
        .fails(125)
        .stderr_has("index.json");
}
