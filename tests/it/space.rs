//! `rl history`, `untag`, `image prune`, `system df`, `prune` and `reset`.

use serde_json::json;

use crate::support::Home;
use crate::support::host::Need;
use crate::support::image::{Image, Layer};

/// Two images that share BusyBox's layer; `one` is used by a container.
fn two_images() -> Home {
    let home = Home::new();
    for name in ["one", "two"] {
        let layer = Layer::new().file(name, 0o644, vec![b'x'; 1 << 20]);
        let image = Image::on_busybox(vec![layer]).config(json!({ "Labels": { "kind": name } }));
        home.load(&image, name);
    }
    home.rl("create --name user one true").ok();
    home
}

fn blobs(home: &Home) -> usize {
    std::fs::read_dir(home.store().join("images/blobs/sha256")).map_or(0, Iterator::count)
}

#[test]
fn what_the_disk_is_used_for_is_shown() {
    needs!(Need::Ours);
    let home = two_images();
    let line = |name: &str, field: &str| {
        let format = format!("{{{{.Type}}}} {{{{.{field}}}}}");
        let output = home.rl("system df --format").arg(format).ok();
        let lines = output.lines();
        let line = lines.iter().find(|line| line.starts_with(name)).unwrap();
        line.strip_prefix(name).unwrap().trim().to_owned()
    };
    assert_eq!(line("Images", "TotalCount"), "2");
    assert_eq!(line("Images", "Active"), "1");
    assert_eq!(line("Containers", "TotalCount"), "1");
    assert_ne!(line("Images", "Reclaimable"), "0B (0%)");
    let verbose = home.rl("system df -v").ok();
    verbose
        .stdout_has("SHARED SIZE")
        .stdout_has("two")
        .stdout_has("user");
}

#[test]
fn prune_keeps_what_has_a_name_or_a_user() {
    needs!(Need::Ours);
    let home = two_images();
    home.rl("image prune -f")
        .ok()
        .stdout_is("Total reclaimed space: 0B");
    home.rl("untag two").ok();
    home.rl("images -q").ok().stdout_lacks("two");
    home.rl("image prune -f --filter label!=kind=two")
        .ok()
        .stdout_is("Total reclaimed space: 0B");
    let before = blobs(&home);
    // No is the answer where nobody says yes.
    home.rl("image prune").stdin("n\n").ok().stdout_is("");
    assert_eq!(blobs(&home), before);
    home.rl("image prune -f")
        .ok()
        .stdout_has("deleted: sha256:")
        .stdout_lacks(" 0B");
    assert!(blobs(&home) < before);
    home.rl("image prune -a -f").ok().stdout_lacks("deleted");
    let output = home.rl("system prune -a -f").ok();
    output
        .stdout_has("Deleted Containers:")
        .stdout_has("untagged: one:latest");
    assert_eq!(blobs(&home), 0);
}

#[test]
fn untag_takes_the_names_that_are_given() {
    needs!(Need::Ours);
    let home = two_images();
    home.rl("tag two three").ok();
    home.rl("untag two three:latest").ok();
    home.rl("untag two nine").fails(125).stderr_has("nine");
    home.rl("run --rm --pull never two true").ok();
    home.rl("run --rm --pull never three true").fails(125);
    let id = home.rl("images -q --no-trunc two").ok().text().to_owned();
    home.rl("untag two").ok();
    home.rl("run --rm --pull never").arg(&id).arg("true").ok();
}

#[test]
fn reset_removes_everything_and_asks_before() {
    needs!(Need::Ours);
    let home = two_images();
    home.rl("run -d --name runs -v kept:/v one sleep 1000").ok();
    home.file("store-neighbour", "stays");
    std::fs::write(home.store().join("mine"), "stays").unwrap();
    home.rl("system reset").stdin("\n").ok();
    home.rl("inspect runs").ok();
    home.rl("system reset -f").ok();
    let left: Vec<_> = std::fs::read_dir(home.store())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left, ["mine"]);
    home.rl("ps -aq").ok().stdout_is("");
    home.rl("images -q").ok().stdout_is("");
    home.rl("system reset -f").ok();
    home.load_busybox();
    home.rl("run --rm busybox echo again").says("again");
}

#[test]
fn history_shows_every_layer_the_last_first() {
    needs!(Need::Ours);
    let home = two_images();
    let sizes = home.rl("history --format {{.Size}} one").ok();
    assert_eq!(sizes.lines().len(), 2, "{sizes:?}");
    assert_eq!(sizes.lines()[0], "1.05MB");
    let bytes = home.rl("history --human=false --format {{.Size}} one").ok();
    assert_eq!(bytes.lines()[0], "1048576");
    let ids = home.rl("history -q one").ok();
    assert_eq!(ids.lines()[1], "<missing>");
    home.rl("history none").fails(125);
}
