//! Everything that can be wrong from outside: a clear error that says what, why and what to do, code 125,
//! nothing half-made left, and the next command works.

use serde_json::json;

use crate::support::host::Need;
use crate::support::image::{Compression, Image, Layer, blob, digest};
use crate::support::registry::{self, Liar};
use crate::support::{Home, Output};

/// The error is one of ours: it starts with `rl: `, has a remedy, and no trace of a crash.
#[track_caller]
fn is_clear(output: &Output) {
    for bad in ["panicked", "RUST_BACKTRACE", "Os {", "Error {", "unwrap"] {
        if output.stderr.contains(bad) {
            output.wrong(&format!("`{bad}` is not for users"));
        }
    }
    let first = output
        .stderr
        .lines()
        .find(|line| line.starts_with("rl: ") || line.starts_with("error: "));
    if first.is_none() {
        output.wrong("no line that starts with `rl: `");
    }
}

#[track_caller]
fn has_remedy(output: &Output) {
    is_clear(output);
    output.stderr_has_one_of(&["to fix:", "try '--help'", "--help"]);
}

/// Only what was there before, and nothing half-made.
#[track_caller]
fn is_clean_and_works(home: &Home) {
    let tmp = home.store().join("tmp");
    for place in ["containers", "names"] {
        let left: Vec<_> = std::fs::read_dir(home.store().join(place))
            .into_iter()
            .flatten()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert!(left.is_empty(), "{place}: {left:?}");
    }
    home.load_busybox();
    home.rl("run --rm --network none busybox echo fine")
        .says("fine");
    let left: Vec<_> = std::fs::read_dir(&tmp)
        .into_iter()
        .flatten()
        .map(|entry| entry.unwrap().file_name())
        .filter(|name| !name.to_string_lossy().contains("lock"))
        .collect();
    assert!(left.is_empty(), "tmp: {left:?}");
}

#[test]
fn mistakes_on_the_command_line() {
    needs!(Need::Ours);
    let home = Home::with_busybox();
    for (line, part) in [
        ("run --no-such-flag busybox", "--no-such-flag"),
        ("no-such-command", "no-such-command"),
        ("run", "IMAGE"),
        ("run --rm -v /tmp:/x:wrong busybox true", "wrong"),
        ("run --rm -v relative-target:also busybox true", "also"),
        (
            "run --rm -v /tmp:/x:ro:rw:z busybox true",
            "/tmp:/x:ro:rw:z",
        ),
        (
            "run --rm --mount type=nothing,target=/x busybox true",
            "nothing",
        ),
        (
            "run --rm --mount type=bind,target=/x busybox true",
            "source",
        ),
        (
            "run --rm --mount type=bind,source=/tmp busybox true",
            "target",
        ),
        ("run --rm --ulimit nofile busybox true", "nofile"),
        ("run --rm --ulimit nonsense=1 busybox true", "nonsense"),
        ("run --rm --shm-size lots busybox true", "lots"),
        ("run --rm --name bad/name busybox true", "bad/name"),
        (
            "run --rm --dns not-an-address busybox true",
            "not-an-address",
        ),
        ("run --rm --sysctl nonsense busybox true", "nonsense"),
        (
            "run --rm --sysctl kernel.panic=1 busybox true",
            "kernel.panic",
        ),
        ("run --rm --stop-signal NONSENSE busybox true", "NONSENSE"),
        (
            "run --rm --env-file /no/such/file busybox true",
            "/no/such/file",
        ),
        ("run --rm --env =x busybox true", "=x"),
        ("run --rm --pull sometimes busybox true", "sometimes"),
        ("run --rm --pid sideways busybox true", "sideways"),
        ("run --rm --ipc sideways busybox true", "sideways"),
        ("run --rm --uts sideways busybox true", "sideways"),
        ("run --rm --cgroupns sideways busybox true", "sideways"),
        ("run --rm --rootfs /no/such/root true", "/no/such/root"),
        ("images --format {{.NoSuchField", "NoSuchField"),
        ("load -i /no/such/file", "/no/such/file"),
        ("import /no/such/file x", "/no/such/file"),
    ] {
        let output = home.rl(line).run();
        let code = output.status.code();
        if code != Some(125) {
            output.wrong("expected exit code 125");
        }
        is_clear(&output);
        output.stderr_has(part);
    }
    is_clean_and_works(&home);
}

#[test]
fn names_of_images_that_are_none() {
    needs!(Need::Ours);
    let home = Home::new();
    for name in [
        "UPPER",
        "a//b",
        ":tag",
        "a:b:c:d",
        "a@sha256:short",
        "a@md5:00",
        "-",
        "a b",
        "../../etc",
        "a:t/x y",
        "ä",
    ] {
        let output = home.rl("pull").arg("--").arg(name).run();
        if output.status.code() != Some(125) {
            output.wrong("expected exit code 125");
        }
        is_clear(&output);
    }
    is_clean_and_works(&home);
}

#[test]
fn an_unknown_image() {
    needs!(Need::Ours, Need::Registry);
    let home = Home::new();
    for name in ["no/such/image", "busybox:no-such-tag"] {
        let output = home
            .rl("run --rm")
            .arg(format!("{}/{name}", registry::plain()))
            .arg("true")
            .fails(125);
        has_remedy(&output);
        output.stderr_has(name);
    }
    is_clean_and_works(&home);
}

#[test]
fn a_registry_that_is_not_there() {
    needs!(Need::Ours);
    let home = Home::new();
    let unused = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let output = home.rl("pull").arg(format!("{unused}/x")).fails(125);
    has_remedy(&output);
    output
        .stderr_has(&unused.to_string())
        .stderr_has_one_of(&["refuse"]);
    let output = home.rl("pull no-such-host.invalid/x").fails(125);
    has_remedy(&output);
    output.stderr_has("no-such-host.invalid");
    is_clean_and_works(&home);
}

#[test]
fn a_server_that_is_no_registry() {
    needs!(Need::Ours);
    let home = Home::new();
    let liar = Liar::start();
    liar.answer("/v2/", 200, "text/html", b"<html>It works!</html>");
    liar.answer(
        "/v2/x/manifests/latest",
        200,
        "text/html",
        b"<html>It works!</html>",
    );
    let output = home
        .rl("pull")
        .arg(format!("{}/x", liar.address()))
        .fails(125);
    is_clear(&output);
    liar.answer("/v2/x/manifests/latest", 500, "text/plain", b"oh no");
    let output = home
        .rl("pull")
        .arg(format!("{}/x", liar.address()))
        .fails(125);
    is_clear(&output);
    output.stderr_has_one_of(&["500", "internal"]);
    is_clean_and_works(&home);
}

/// An image on the lying registry, with its blobs as they should be.
struct Served {
    liar: Liar,
    manifest: serde_json::Value,
    layer: Vec<u8>,
}

fn served(home: &Home) -> Served {
    let layout = home.dir("served");
    Image::busybox().oci_layout(&layout, "x", Compression::Gzip);
    let index: serde_json::Value =
        serde_json::from_slice(&std::fs::read(layout.join("index.json")).unwrap()).unwrap();
    let read = |descriptor: &serde_json::Value| {
        let digest = descriptor["digest"].as_str().unwrap();
        std::fs::read(layout.join("blobs/sha256").join(&digest[7..])).unwrap()
    };
    let manifest: serde_json::Value =
        serde_json::from_slice(&read(&index["manifests"][0])).unwrap();
    let liar = Liar::start();
    let config = &manifest["config"];
    liar.answer(
        &format!("/v2/x/blobs/{}", config["digest"].as_str().unwrap()),
        200,
        "application/octet-stream",
        &read(config),
    );
    let served = Served {
        liar,
        layer: read(&manifest["layers"][0]),
        manifest,
    };
    served.layer(&served.layer);
    served.manifest(&served.manifest);
    served
}

impl Served {
    fn manifest(&self, manifest: &serde_json::Value) {
        let text = manifest.to_string();
        self.liar.answer(
            "/v2/x/manifests/latest",
            200,
            "application/vnd.oci.image.manifest.v1+json",
            text.as_bytes(),
        );
    }

    fn layer(&self, bytes: &[u8]) {
        let digest = self.manifest["layers"][0]["digest"].as_str().unwrap();
        self.liar.answer(
            &format!("/v2/x/blobs/{digest}"),
            200,
            "application/octet-stream",
            bytes,
        );
    }

    fn name(&self) -> String {
        format!("{}/x", self.liar.address())
    }
}

#[test]
fn the_lying_registry_can_also_tell_the_truth() {
    let home = Home::new();
    if crate::support::under_test() == crate::support::UnderTest::Podman {
        return; // it knows only the addresses that scripts/test gave out
    }
    let served = served(&home);
    home.rl("pull -q").arg(served.name()).ok();
    home.rl("run --rm --network none")
        .arg(served.name())
        .args(["echo", "true"])
        .says("true");
}

#[test]
fn a_layer_that_is_not_what_its_digest_says() {
    needs!(Need::Ours);
    let home = Home::new();
    let served = served(&home);
    let mut bytes = served.layer.clone();
    // In the middle of the data, so that length and header are right.
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xff;
    served.layer(&bytes);
    let output = home.rl("pull").arg(served.name()).fails(125);
    is_clear(&output);
    output.stderr_has_one_of(&["digest", "corrupt", "invalid"]);
    is_clean_and_works(&home);
    // Honest again: nothing of the lie was kept.
    served.layer(&served.layer);
    home.rl("pull -q").arg(served.name()).ok();
}

#[test]
fn a_truncated_layer_and_one_that_is_too_long() {
    needs!(Need::Ours);
    let home = Home::new();
    let served = served(&home);
    served.layer(&served.layer[..served.layer.len() / 2]);
    is_clear(&home.rl("pull").arg(served.name()).fails(125));
    let mut long = served.layer.clone();
    long.extend_from_slice(b"more");
    served.layer(&long);
    is_clear(&home.rl("pull").arg(served.name()).fails(125));
    // The connection breaks off before the length that was announced.
    served
        .liar
        .break_off(served.manifest["layers"][0]["digest"].as_str().unwrap());
    served.layer(&served.layer);
    is_clear(&home.rl("pull").arg(served.name()).fails(125));
    // What came of it waits for its rest, and goes when asked to.
    home.rl("image prune -f").ok();
    is_clean_and_works(&home);
}

#[test]
fn manifests_that_are_wrong() {
    needs!(Need::Ours);
    let home = Home::new();
    let served = served(&home);
    let good = served.manifest.clone();
    let change = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut manifest = good.clone();
        change(&mut manifest);
        manifest
    };
    for (what, manifest) in [
        ("an empty object", json!({})),
        ("a list", json!([])),
        (
            "no layers",
            change(&|m| {
                m["layers"] = json!(null);
            }),
        ),
        (
            "a schema from the future",
            change(&|m| {
                m["schemaVersion"] = json!(9);
            }),
        ),
        (
            "a digest of another kind",
            change(&|m| {
                m["layers"][0]["digest"] = json!("md5:00");
            }),
        ),
        (
            "a digest that is a path",
            change(&|m| {
                m["layers"][0]["digest"] = json!("sha256:../../../../etc/passwd");
            }),
        ),
        (
            "an unknown kind of layer",
            change(&|m| {
                m["layers"][0]["mediaType"] = json!("application/x-unknown");
            }),
        ),
        (
            "a size of another layer",
            change(&|m| {
                m["layers"][0]["size"] = json!(1);
            }),
        ),
        (
            "a negative size",
            change(&|m| {
                m["layers"][0]["size"] = json!(-1);
            }),
        ),
        (
            "a configuration that is a layer",
            change(&|m| {
                m["config"] = m["layers"][0].clone();
            }),
        ),
        (
            "more layers than the configuration knows",
            change(&|m| {
                let l = m["layers"][0].clone();
                m["layers"] = json!([l.clone(), l]);
            }),
        ),
    ] {
        served.manifest(&manifest);
        let output = home.rl("pull").arg(served.name()).run();
        if output.status.code() != Some(125) {
            output.wrong(what);
        }
        is_clear(&output);
    }
    served.liar.answer(
        "/v2/x/manifests/latest",
        200,
        "application/vnd.oci.image.manifest.v1+json",
        b"{\"schemaVersion\": 2,",
    );
    is_clear(&home.rl("pull").arg(served.name()).fails(125));
    is_clean_and_works(&home);
}

#[test]
fn a_manifest_of_four_gigabytes() {
    needs!(Need::Ours);
    let home = Home::new();
    let liar = Liar::start();
    liar.endless("/v2/x/manifests/latest", 4 << 30);
    let started = std::time::Instant::now();
    let output = home
        .rl("pull")
        .arg(format!("{}/x", liar.address()))
        .fails(125);
    is_clear(&output);
    output.stderr_has_one_of(&["large", "big", "limit", "more than"]);
    assert!(started.elapsed().as_secs() < 20, "it read on");
    assert!(liar.sent() < 64 << 20, "{} bytes were taken", liar.sent());
    is_clean_and_works(&home);
}

#[test]
fn a_token_server_that_lies() {
    needs!(Need::Ours);
    let home = Home::new();
    let liar = Liar::start();
    let realm = format!(
        "Bearer realm=\"http://{}/token\",service=\"s\"",
        liar.address()
    );
    liar.refuse("/v2/x/manifests/latest", &realm);
    liar.answer("/token", 200, "application/json", b"{\"no\": \"token\"}");
    is_clear(
        &home
            .rl("pull")
            .arg(format!("{}/x", liar.address()))
            .fails(125),
    );
    // A token is given, and never accepted: no endless loop.
    liar.answer("/token", 200, "application/json", b"{\"token\": \"t\"}");
    is_clear(
        &home
            .rl("pull")
            .arg(format!("{}/x", liar.address()))
            .fails(125),
    );
    is_clean_and_works(&home);
}

#[test]
fn a_redirect_without_end() {
    needs!(Need::Ours);
    let home = Home::new();
    let liar = Liar::start();
    liar.redirect("/v2/x/manifests/latest", "/v2/x/manifests/latest");
    is_clear(
        &home
            .rl("pull")
            .arg(format!("{}/x", liar.address()))
            .fails(125),
    );
    is_clean_and_works(&home);
}

#[test]
fn archives_that_are_none() {
    needs!(Need::Ours);
    let home = Home::new();
    let good = Image::busybox().docker_archive("good:latest");
    for (name, bytes) in [
        ("empty", vec![]),
        ("text", b"this is not an archive".to_vec()),
        ("zeros", vec![0; 10_240]),
        ("truncated", good[..good.len() / 2].to_vec()),
        ("truncated in the header", good[..700].to_vec()),
        ("a tar without manifest", Layer::new().file("x", 0o644, "x").finish()),
        ("a manifest that is no JSON", Layer::new().file("manifest.json", 0o644, "{").finish()),
        ("a manifest that names nothing", Layer::new().file("manifest.json", 0o644, r#"[{"Config":"no","RepoTags":["a:b"],"Layers":["no"]}]"#).finish()),
        ("a manifest that names the host's files", Layer::new().file("manifest.json", 0o644, r#"[{"Config":"/etc/passwd","RepoTags":["a:b"],"Layers":["../../etc/passwd"]}]"#).finish()),
    ] {
        let path = home.file("archive", &bytes);
        let output = home.rl("load -i").arg(&path).run();
        if output.status.code() != Some(125) {
            output.wrong(name);
        }
        is_clear(&output);
    }
    assert_eq!(home.rl("images -q").ok().text(), "");
    is_clean_and_works(&home);
}

#[test]
fn a_pipe_without_end_is_refused_at_its_beginning() {
    needs!(Need::Ours);
    let home = Home::new();
    for (from, command) in [
        ("yes", "load"),
        ("cat /dev/zero", "load"),
        ("yes | gzip", "load"),
        ("yes", "import -"),
        ("cat /dev/zero", "import -"),
        ("yes | gzip", "import -"),
    ] {
        // The limit on what a file may have stands in for a full disk.
        let output = home
            .sh(&format!(
                "{from} | (ulimit -f 2048; timeout 20 \"$RL\" {command})"
            ))
            .run();
        if output.status.code() != Some(125) || output.stderr.contains("File too large") {
            output.wrong(&format!("{from} | {command}"));
        }
        is_clear(&output);
    }
    is_clean_and_works(&home);
}

#[test]
fn a_layer_whose_content_is_not_what_the_configuration_says() {
    needs!(Need::Ours, Need::Registry);
    let home = Home::new();
    let layout = home.dir("layout");
    Image::busybox().oci_layout(&layout, "x", Compression::Gzip);
    // A manifest whose layer is sound, and another than the one in `rootfs.diff_ids`.
    let other = Image::on_busybox(vec![Layer::new().file("other", 0o644, "x")]);
    let mut manifest: serde_json::Value =
        json!({ "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json" });
    manifest["config"] = blob(
        &layout,
        "application/vnd.oci.image.config.v1+json",
        &Image::busybox().configuration("amd64"),
    );
    manifest["layers"] = json!([blob(
        &layout,
        "application/vnd.oci.image.layer.v1.tar",
        &other.layers[1]
    )]);
    let liar = Liar::start();
    liar.answer(
        "/v2/x/manifests/latest",
        200,
        "application/vnd.oci.image.manifest.v1+json",
        manifest.to_string().as_bytes(),
    );
    for descriptor in [&manifest["config"], &manifest["layers"][0]] {
        let digest = descriptor["digest"].as_str().unwrap();
        let bytes = std::fs::read(layout.join("blobs/sha256").join(&digest[7..])).unwrap();
        liar.answer(
            &format!("/v2/x/blobs/{digest}"),
            200,
            "application/octet-stream",
            &bytes,
        );
    }
    let output = home
        .rl("pull")
        .arg(format!("{}/x", liar.address()))
        .fails(125);
    is_clear(&output);
    is_clean_and_works(&home);
    assert_ne!(digest(b"a"), digest(b"b"));
}

#[test]
fn volumes_that_cannot_be_read() {
    needs!(Need::Ours);
    let home = Home::with_busybox();
    let closed = home.dir("closed/inner");
    let outer = closed.parent().unwrap();
    rustix::fs::chmod(outer, 0o000.into()).unwrap();
    let output = home
        .rl("run --rm -v")
        .arg(format!("{}:/x", closed.display()))
        .args(["busybox", "true"])
        .run();
    rustix::fs::chmod(outer, 0o700.into()).unwrap();
    let output = output.code(125);
    has_remedy(&output);
    output.stderr_has("closed/inner");
    let output = home
        .rl("run --rm --mount")
        .arg("type=bind,source=/no/such/dir,target=/x")
        .args(["busybox", "true"])
        .fails(125);
    has_remedy(&output);
    output.stderr_has("/no/such/dir");
    is_clean_and_works(&home);
}

#[test]
fn users_that_do_not_exist() {
    needs!(Need::Ours);
    let home = Home::with_busybox();
    for user in ["nobody-here", "app:no-such-group", "99999999999", "-1"] {
        let output = home
            .rl("run --rm")
            .arg(format!("--user={user}"))
            .args(["busybox", "true"])
            .fails(125);
        is_clear(&output);
        output.stderr_has_one_of(&["nobody-here", "no-such-group", "99999999999", "-1"]);
    }
    is_clean_and_works(&home);
}

#[test]
fn programs_that_are_no_programs() {
    needs!(Need::Ours); // crun 1.8 ends with 1 where docker ends with 126
    let home = Home::new();
    let layer = Layer::new()
        .file("text", 0o755, "no interpreter, no ELF")
        .file("lost", 0o755, "#!/no/such/interpreter\n")
        .file("empty", 0o755, "")
        .file(
            "foreign",
            0o755,
            b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\xf3\0\x01\0\0\0",
        )
        .file("locked", 0o644, "x");
    home.load(&Image::on_busybox(vec![layer]), "odd:latest");
    for (program, codes) in [
        ("/text", &[126][..]),
        // docker says 127 here, and so does podman: the file is there, what it needs is not.
        ("/lost", &[127, 126]),
        ("/empty", &[126, 0]),
        ("/foreign", &[126]),
        ("/locked", &[126]),
        ("/bin", &[126]),
        ("", &[127, 126, 125]),
    ] {
        let output = home.rl("run --rm --network none odd").arg(program).run();
        if !output
            .status
            .code()
            .is_some_and(|code| codes.contains(&code))
        {
            output.wrong(&format!("`{program}`: expected one of {codes:?}"));
        }
    }
}

#[test]
fn a_foreign_home_or_none() {
    needs!(Need::Ours);
    let mut home = Home::with_busybox();
    // No runtime directory, as in a cron job.
    home.unset("XDG_RUNTIME_DIR");
    home.rl("run --rm --network none busybox echo fine")
        .says("fine");
    // One that belongs to somebody else, as after `su`.
    home.set("XDG_RUNTIME_DIR", "/run");
    home.rl("run --rm --network none busybox echo fine")
        .says("fine");
    home.set("XDG_RUNTIME_DIR", "/no/such/directory");
    home.rl("run --rm --network none busybox echo fine")
        .says("fine");
    // A home that cannot be written.
    home.set("HOME", "/proc");
    let output = home.rl("run --rm busybox true").fails(125);
    has_remedy(&output);
    home.rl("--root")
        .arg(home.path().join("elsewhere"))
        .args(["images", "-q"])
        .says("");
}

#[test]
fn a_full_disk() {
    needs!(Need::Ours, Need::SmallDisk);
    let home = Home::new();
    let disk = std::path::PathBuf::from(std::env::var("RL_TEST_SMALL_DISK").unwrap());
    let store = disk.join("store");
    // Random bytes do not shrink: more than the disk holds.
    let noise: Vec<u8> = (0..20_000_000_u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 13).to_le_bytes()[0])
        .collect();
    let big = Image::on_busybox(vec![Layer::new().file("big", 0o644, &noise)]);
    let archive = home.file("big.tar", big.docker_archive("big:latest"));
    let output = home
        .rl("load -i")
        .arg(&archive)
        .env("RL_ROOT", &store)
        .fails(125);
    has_remedy(&output);
    output.stderr_has_one_of(&["space", "full"]);
    // What did not fit is gone, and what fits works.
    home.rl("load -q -i")
        .arg(crate::support::image::busybox())
        .env("RL_ROOT", &store)
        .ok();
    home.rl("run --rm --network none busybox echo fine")
        .env("RL_ROOT", &store)
        .says("fine");
    assert!(
        !home
            .rl("images")
            .env("RL_ROOT", &store)
            .ok()
            .stdout
            .contains("big")
    );
    home.sh(&format!("chmod -R u+rwX {0}; rm -rf {0}", store.display()))
        .run();
}
