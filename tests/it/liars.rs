//! Registries that lie, beyond what `badinput` has: nothing they send makes `rl` hang, eat the memory or the disk, give a login
//! away, or keep what is false.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::host::Need;
use crate::support::image::{Layer, digest, gzip};
use crate::support::registry::Liar;
use crate::support::{Home, Output};

const KIND: &str = "application/vnd.oci.image.manifest.v1+json";

/// An image of one layer on the lying registry; `x:latest`. Returns its manifest and the path of its layer.
fn serve(liar: &Liar, tar: &[u8], layer: &[u8]) -> (Value, String) {
    let config = json!({
        "architecture": "amd64", "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [digest(tar)]},
    })
    .to_string();
    let manifest = json!({
        "schemaVersion": 2,
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": digest(config.as_bytes()), "size": config.len(),
        },
        "layers": [{
            "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
            "digest": digest(layer), "size": layer.len(),
        }],
    });
    let blob = |bytes: &[u8]| format!("/v2/x/blobs/{}", digest(bytes));
    liar.answer(
        "/v2/x/manifests/latest",
        200,
        KIND,
        manifest.to_string().as_bytes(),
    );
    for bytes in [config.as_bytes(), layer] {
        liar.answer(&blob(bytes), 200, "application/octet-stream", bytes);
    }
    (manifest, blob(layer))
}

/// It failed in words, within bounds, and nothing is left of it.
#[track_caller]
fn refused(home: &Home, output: &Output, since: Instant) {
    assert_eq!(output.status.code(), Some(125), "{output:?}");
    output.stderr_has("rl: pulling");
    assert!(!output.stderr.contains("panicked"), "{output:?}");
    assert!(
        since.elapsed() < Duration::from_secs(60),
        "it took too long"
    );
    home.rl("system check").ok();
    home.rl("images -q").says("");
    let left = home.sh("find $HOME/.local/share/rl/tmp $HOME/.local/share/rl/layers $HOME/.local/share/rl/images/blobs -mindepth 2 2>/dev/null | wc -l");
    assert_eq!(left.ok().text(), "0");
}

fn small() -> (Vec<u8>, Vec<u8>) {
    let tar = Layer::new().with_busybox().finish();
    let layer = gzip(&tar);
    (tar, layer)
}

#[test]
fn a_body_without_an_end_is_not_read_to_its_end() {
    needs!(Need::Ours);
    let home = Home::new();
    let liar = Liar::start();
    let (tar, layer) = small();
    let (_, path) = serve(&liar, &tar, &layer);
    let name = format!("{}/x", liar.address());
    // A layer that claims to be longer, and one that claims nothing and goes on.
    for endless in [Liar::endless as fn(&Liar, &str, u64), Liar::chunked] {
        let (since, before) = (Instant::now(), liar.sent());
        endless(&liar, &path, 8 << 30);
        refused(&home, &home.rl("pull").arg(&name).run(), since);
        assert!(
            liar.sent() - before < 64 << 20,
            "{} bytes were taken",
            liar.sent()
        );
    }
    let (since, before) = (Instant::now(), liar.sent());
    liar.chunked("/v2/x/manifests/latest", 8 << 30);
    refused(&home, &home.rl("pull").arg(&name).run(), since);
    assert!(
        liar.sent() - before < 64 << 20,
        "{} bytes were taken",
        liar.sent()
    );
    // A token, and an error.
    let realm = format!("Bearer realm=\"http://{}/token\"", liar.address());
    liar.refuse("/v2/x/manifests/latest", &realm);
    liar.chunked("/token", 8 << 30);
    refused(&home, &home.rl("pull").arg(&name).run(), since);
    assert!(
        liar.sent() - before < 128 << 20,
        "{} bytes were taken",
        liar.sent()
    );
}

#[test]
fn a_resumed_layer_that_is_another_one_is_never_kept() {
    needs!(Need::Ours);
    let home = Home::new();
    let liar = Liar::start();
    let (tar, layer) = small();
    let (_, path) = serve(&liar, &tar, &layer);
    let name = format!("{}/x", liar.address());
    liar.break_off(&digest(&layer));
    home.rl("pull").arg(&name).fails(125);
    liar.break_off("nothing");
    // The rest is of something else, of the right length.
    let mut other = layer.clone();
    let end = other.len() - 100;
    other[end] ^= 0xff;
    let since = Instant::now();
    liar.answer(&path, 200, "application/octet-stream", &other);
    let output = home.rl("pull").arg(&name).run();
    output.stderr_has("fetched anew");
    refused(&home, &output, since);
    // A part that nobody asked for.
    let head = "206 X\r\nContent-Range: bytes 5-9/10\r\n";
    liar.answer_with(&path, head, &layer);
    refused(&home, &home.rl("pull").arg(&name).run(), since);
    liar.answer(&path, 200, "application/octet-stream", &layer);
    home.rl("pull").arg(&name).ok();
}

#[test]
fn redirects_lead_neither_round_nor_away_from_the_network() {
    needs!(Need::Ours);
    let home = Home::new();
    let liar = Liar::start();
    let (tar, layer) = small();
    let (_, path) = serve(&liar, &tar, &layer);
    let name = format!("{}/x", liar.address());
    let since = Instant::now();
    liar.redirect("/one", "/two");
    liar.redirect("/two", "/one");
    for to in [
        "/one",
        "file:///etc/passwd",
        "ftp://127.0.0.1/x",
        "http://",
        "//",
        "http://\u{7f}/",
        "http://192.0.2.1:1/plain",
        "",
    ] {
        liar.redirect(&path, to);
        refused(&home, &home.rl("pull").arg(&name).run(), since);
    }
}

/// A login goes to its registry and the token server that this one names; not to where a redirect leads.
#[test]
fn a_login_does_not_follow_a_redirect() {
    needs!(Need::Ours);
    let home = Home::new();
    let (liar, thief) = (Liar::start(), Liar::start());
    liar.refuse("/v2/x/manifests/latest", "Basic realm=\"x\"");
    let to = format!("http://{}/v2/x/manifests/latest", thief.address());
    // The second time, with the login, it sends us away.
    liar.then_redirect("/v2/x/manifests/latest", &to);
    thief.refuse("/v2/x/manifests/latest", "Basic realm=\"x\"");
    home.rl("pull --creds me:hunter2")
        .arg(format!("{}/x", liar.address()))
        .fails(125);
    let shown = liar.heads();
    assert!(
        shown.contains("authorization: basic"),
        "it was never logged in: {shown}"
    );
    let stolen = thief.heads();
    assert!(!stolen.is_empty(), "nobody came to the thief");
    assert!(!stolen.contains("authorization"), "{stolen}");
}

#[test]
fn a_bomb_costs_no_memory_and_leaves_nothing() {
    needs!(Need::Ours);
    let home = Home::new();
    let liar = Liar::start();
    // 1 GiB of zeros behind the end of a good archive, in about a megabyte.
    let tar = Layer::new().with_busybox().finish();
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    std::io::Write::write_all(&mut packed, &tar).unwrap();
    let zeros = vec![0; 1 << 20];
    for _ in 0..1024 {
        std::io::Write::write_all(&mut packed, &zeros).unwrap();
    }
    let layer = packed.finish().unwrap();
    serve(&liar, &tar, &layer);
    let name = format!("{}/x", liar.address());
    let since = Instant::now();
    // As much as it may address: two buffers for each of its threads, and far less than the bomb.
    let output = home
        .sh(&format!(
            "ulimit -v 400000; exec {} pull {name}",
            crate::support::rl_binary().display()
        ))
        .run();
    refused(&home, &output, since);
    output.stderr_has("unpacks to");
    // A manifest that is packed without being asked for is not unpacked.
    let bomb = gzip(&vec![b' '; 64 << 20]);
    let head = format!("200 X\r\nContent-Type: {KIND}\r\nContent-Encoding: gzip\r\n");
    liar.answer_with("/v2/x/manifests/latest", &head, &bomb);
    refused(&home, &home.rl("pull").arg(&name).run(), since);
}

#[test]
fn an_index_of_anything_is_refused_in_words() {
    needs!(Need::Ours);
    let home = Home::new();
    let liar = Liar::start();
    let (tar, layer) = small();
    let (manifest, _) = serve(&liar, &tar, &layer);
    let name = format!("{}/x", liar.address());
    let since = Instant::now();
    let entry = json!({
        "mediaType": KIND, "digest": digest(b"nothing"), "size": 7,
        "platform": {"os": "linux", "architecture": "amd64"},
    });
    let mut both = manifest.clone();
    both["manifests"] = json!([entry]);
    let many = vec![entry.clone(); 5000];
    let mut layers = manifest.clone();
    layers["layers"] = json!(vec![manifest["layers"][0].clone(); 5000]);
    let mut huge = manifest.clone();
    huge["layers"][0]["size"] = json!(u64::MAX);
    let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
    for (kind, text) in [
        (KIND, both.to_string()),
        (KIND, layers.to_string()),
        (KIND, huge.to_string()),
        (KIND, deep),
        (
            "application/vnd.oci.image.index.v1+json",
            json!({"schemaVersion": 2, "manifests": many}).to_string(),
        ),
        (
            "application/vnd.oci.image.index.v1+json",
            json!({"schemaVersion": 2, "manifests": []}).to_string(),
        ),
        (
            "application/vnd.oci.image.index.v1+json",
            json!({"schemaVersion": 2, "manifests": [entry]}).to_string(),
        ),
    ] {
        liar.answer("/v2/x/manifests/latest", 200, kind, text.as_bytes());
        refused(&home, &home.rl("pull").arg(&name).run(), since);
    }
}

#[test]
fn as_many_layers_are_fetched_at_once_as_one_asks_for() {
    needs!(Need::Ours);
    let liar = Liar::start();
    let tars: Vec<Vec<u8>> = (0..6)
        .map(|number| Layer::new().file("f", 0o644, format!("{number}")).finish())
        .collect();
    let digests: Vec<String> = tars.iter().map(|tar| digest(tar)).collect();
    let config = json!({
        "architecture": "amd64", "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": digests},
    })
    .to_string();
    let describe = |kind: &str, bytes: &[u8]| {
        let path = format!("/v2/x/blobs/{}", digest(bytes));
        liar.answer(&path, 200, "application/octet-stream", bytes);
        json!({"mediaType": kind, "digest": digest(bytes), "size": bytes.len()})
    };
    let layer = "application/vnd.oci.image.layer.v1.tar";
    let layers: Vec<Value> = tars.iter().map(|tar| describe(layer, tar)).collect();
    let config = describe(
        "application/vnd.oci.image.config.v1+json",
        config.as_bytes(),
    );
    let manifest = json!({"schemaVersion": 2, "config": config, "layers": layers}).to_string();
    liar.answer("/v2/x/manifests/latest", 200, KIND, manifest.as_bytes());
    let name = format!("{}/x", liar.address());
    for (options, most) in [("", 3), ("--parallel 1", 1), ("--parallel 6", 6)] {
        let home = Home::new();
        home.rl(&format!("pull -q {options}")).arg(&name).ok();
        assert_eq!(liar.most_at_once(), most, "{options}");
    }
    Home::new()
        .rl("pull --parallel 0")
        .arg(&name)
        .fails(125)
        .stderr_has("1..=32");
}
