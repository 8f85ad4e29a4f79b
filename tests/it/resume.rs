//! A layer's transfer that breaks goes on where it broke, in the same command and in the next one.

use nix::sys::signal::Signal;
use serde_json::json;

use crate::support::host::Need;
use crate::support::image::{Compression, Image, Layer, digest, gzip};
use crate::support::registry::{self, Liar, Line};
use crate::support::{Home, wait_for};

/// As many bytes that no packing makes smaller, the same every time.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    })
    .take(length)
    .collect()
}

const NOISE: usize = 12 << 20;
/// Manifests, configuration, headers, BusyBox, and what was on its way when a line was cut.
const SLACK: u64 = 3 << 20;

/// An image whose one large layer is of [`NOISE`]; its name in the plain registry.
fn large(home: &Home) -> String {
    let name = format!("{}:large", registry::fresh_name(home));
    let layout = home.dir("layout");
    let layer = Layer::new().file("noise", 0o644, noise(NOISE));
    Image::on_busybox(vec![layer]).oci_layout(&layout, "large", Compression::Gzip);
    registry::push(home, &layout, "large", &name, &[]);
    name
}

fn through(name: &str, line: &Line) -> String {
    name.replace(&registry::plain(), &line.address().to_string())
}

/// The bytes that wait for their rest.
fn waiting(home: &Home) -> u64 {
    let entries = std::fs::read_dir(home.store().join("tmp"));
    entries
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().ends_with(".part"))
        .map(|entry| entry.metadata().map_or(0, |meta| meta.len()))
        .sum()
}

/// The image is here, whole, and nothing else is left of its transfer.
fn is_whole(home: &Home, name: &str) {
    let sum = digest(&noise(NOISE)).replace("sha256:", "");
    home.rl("run --rm --network none --pull never")
        .args([name, "sh", "-c", "sha256sum <noise"])
        .says(&format!("{sum}  -"));
    home.rl("system check").ok();
    assert_eq!(
        home.sh("ls $HOME/.local/share/rl/tmp | wc -l").ok().text(),
        "0"
    );
}

#[test]
fn a_layer_goes_on_where_its_line_was_cut_within_one_command() {
    needs!(Need::Ours, Need::Registry);
    let home = Home::new();
    let line = Line::cut(&registry::plain(), 4 << 20, 2);
    let name = through(&large(&home), &line);
    home.rl("pull -q").arg(&name).ok();
    assert!(line.is_done());
    let received = line.received();
    assert!(received < NOISE as u64 + SLACK, "{received} bytes");
    is_whole(&home, &name);
}

#[test]
fn a_layer_goes_on_where_an_earlier_command_gave_up() {
    needs!(Need::Ours, Need::Registry);
    let home = Home::new();
    let line = Line::cut(&registry::plain(), 1 << 20, u64::MAX);
    let name = through(&large(&home), &line);
    home.rl("pull")
        .arg(&name)
        .fails(125)
        .stderr_has("what came of it is kept and not fetched twice");
    let (have, _) = (waiting(&home), line.mend());
    assert!(have > 1 << 20, "only {have} bytes are kept");
    // It is no litter.
    home.rl("system check").run().stdout_lacks(".part");
    assert_eq!(waiting(&home), have);
    home.rl("pull")
        .arg(&name)
        .ok()
        .stderr_has("are here from an earlier transfer");
    let received = line.received();
    assert!(
        received < NOISE as u64 - have + SLACK,
        "{received} bytes after {have}"
    );
    is_whole(&home, &name);
}

#[test]
fn a_layer_goes_on_where_a_command_was_killed() {
    needs!(Need::Ours, Need::Registry);
    let home = Home::new();
    let line = Line::stalled(&registry::plain(), 8 << 20);
    let name = through(&large(&home), &line);
    let pull = home.rl("pull -q").arg(&name).spawn();
    wait_for("most of the layer", || {
        (waiting(&home) > 7 << 20).then_some(())
    });
    pull.signal(Signal::SIGKILL);
    pull.wait();
    let (have, _) = (waiting(&home), line.mend());
    // What it built is litter, what came is not.
    home.rl("system check --repair").run();
    assert_eq!(waiting(&home), have);
    home.rl("pull -q").arg(&name).ok();
    let received = line.received();
    assert!(
        received < NOISE as u64 - have + SLACK,
        "{received} bytes after {have}"
    );
    is_whole(&home, &name);
}

#[test]
fn what_an_earlier_command_left_is_not_believed() {
    needs!(Need::Ours, Need::Registry);
    let home = Home::new();
    let line = Line::cut(&registry::plain(), 1 << 20, u64::MAX);
    let name = through(&large(&home), &line);
    home.rl("pull").arg(&name).fails(125);
    line.mend();
    let spoil = "cd $HOME/.local/share/rl/tmp && for part in *.part; do \
                 printf oops | dd of=$part bs=1 seek=1000000 conv=notrunc status=none; done";
    home.sh(spoil).ok();
    home.rl("pull").arg(&name).ok().stderr_has("fetched anew");
    is_whole(&home, &name);
}

#[test]
fn what_is_longer_than_the_layer_or_the_layer_already_is_taken_for_that() {
    needs!(Need::Ours, Need::Registry);
    let home = Home::new();
    let name = large(&home);
    home.rl("pull -q").arg(&name).ok();
    let blob = "cd $HOME/.local/share/rl && big=$(ls -S images/blobs/sha256 | head -n 1) &&";
    for spoil in ["", "echo more >>/tmp/part;"] {
        let keep = format!("{blob} cp images/blobs/sha256/$big $HOME/kept && echo $big");
        let hex = home.sh(&keep).ok().text().to_owned();
        home.rl("rmi").arg(&name).ok();
        let place = format!("mv $HOME/kept .local/share/rl/tmp/{hex}.part");
        let spoil = spoil.replace("/tmp/part", "kept");
        home.sh(&format!("cd $HOME && {spoil} {place}")).ok();
        home.rl("pull -q").arg(&name).ok();
        is_whole(&home, &name);
    }
}

#[test]
fn parts_go_with_a_prune() {
    needs!(Need::Ours, Need::Registry);
    let home = Home::new();
    let line = Line::cut(&registry::plain(), 1 << 20, u64::MAX);
    let name = through(&large(&home), &line);
    home.rl("pull").arg(&name).fails(125);
    assert!(waiting(&home) > 0);
    home.rl("image prune -f")
        .ok()
        .stdout_has("Total reclaimed space: ")
        .stdout_lacks("space: 0B");
    assert_eq!(waiting(&home), 0);
}

/// One that sends all of a blob whatever part it is asked for.
#[test]
fn a_server_that_knows_no_parts_sends_all_again() {
    needs!(Need::Ours);
    let home = Home::new();
    let liar = Liar::start();
    let tar = Layer::new()
        .with_busybox()
        .file("noise", 0o644, noise(NOISE))
        .finish();
    let layer = gzip(&tar);
    let config = json!({
        "architecture": "amd64", "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [digest(&tar)]},
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
            "digest": digest(&layer), "size": layer.len(),
        }],
    })
    .to_string();
    let kind = "application/vnd.oci.image.manifest.v1+json";
    liar.answer("/v2/x/manifests/1", 200, kind, manifest.as_bytes());
    for blob in [config.as_bytes(), &layer] {
        let path = format!("/v2/x/blobs/{}", digest(blob));
        liar.answer(&path, 200, "application/octet-stream", blob);
    }
    let name = format!("{}/x:1", liar.address());
    liar.break_off(&digest(&layer));
    home.rl("pull").arg(&name).fails(125);
    let have = waiting(&home);
    assert!(have >= layer.len() as u64 / 2, "only {have} bytes are kept");
    liar.break_off("nothing");
    home.rl("pull")
        .arg(&name)
        .ok()
        .stderr_has("are here from an earlier transfer");
    is_whole(&home, &name);
}
