//! What unpacking makes is what umoci and podman make of the same layers: names, types, modes, owners, sizes, times, links,
//! attributes and content of every file, as root of the user's ids sees them. Device nodes are nobody's without root: umoci makes
//! empty files of them.

use std::path::Path;

use crate::support::Home;
use crate::support::host::Need;
use crate::support::image::{Compression, Image, Layer};

/// All of the directory `$1`. Directories have no size of their own, and what overlay notes of itself is no content.
const LIST: &str = r#"set -e; cd "$1"; export LC_ALL=C
    find . -mindepth 1 ! -path './dev/*' -printf '%P | %y %m %U:%G %T@ %l\n' | sort
    find . -mindepth 1 ! -path './dev/*' ! -type d -printf '%P | %s bytes, %n names\n' | sort
    find . -mindepth 1 ! -type l -print0 | sort -z | xargs -0 getfattr --no-dereference --dump --match=- --encoding=hex 2>/dev/null |
        grep -vE '^(user|trusted)\.overlay\.' | grep -B1 '^[a-z].*=' || true
    find . -type f ! -path './dev/*' -print0 | sort -z | xargs -0 sha256sum"#;

struct Trees {
    home: Home,
    layout: String,
}

impl Trees {
    /// Runs a script as root of the user's ids, mapped as `rl` maps them, in a mount namespace of its own.
    fn inside(&self, script: &str, words: &[&Path]) -> String {
        let runtime = self.home.path().join("run");
        let output = self
            .home
            .program("podman")
            .arg("--root")
            .arg(self.home.path().join("home/podman"))
            .arg("--runroot")
            .arg(runtime.join("podman"))
            .args(["unshare", "sh", "-c", script, "sh"])
            .args(words)
            .ok();
        output.text().to_owned()
    }

    /// The layers, as `rl` has unpacked them, one over the other.
    fn of_rl(&self, image: &str) -> String {
        let ids = self
            .home
            .rl("image inspect -f")
            .arg("{{range .RootFS.Layers}}{{println .}}{{end}}")
            .arg(image)
            .ok();
        let lowers: Vec<String> = ids
            .lines()
            .iter()
            .rev()
            .filter_map(|id| id.strip_prefix("sha256:"))
            .map(|hex| self.home.store().join("layers").join(hex).join("fs"))
            .map(|path| path.display().to_string())
            .collect();
        let merged = self.home.dir("merged");
        let options = format!("ro,userxattr,lowerdir={}", lowers.join(":"));
        let script = format!("mount -t overlay overlay -o {options} \"$1\"; {LIST}");
        self.inside(&script, &[&merged])
    }

    fn of_umoci(&self) -> String {
        let bundle = self.home.path().join("bundle");
        let script = format!(
            "umoci --log=error unpack --image {} \"$2\" >&2; {LIST}",
            self.layout
        );
        self.inside(&script, &[&bundle.join("rootfs"), &bundle])
    }

    fn of_podman(&self) -> String {
        let runtime = self.home.path().join("run");
        // Podman takes no layout whose path has capitals.
        let archive = self.home.path().join("archive.tar");
        let archive = archive.display();
        let podman = format!(
            "podman --root {} --runroot {}",
            self.home.path().join("home/podman").display(),
            runtime.join("podman").display()
        );
        let script = format!(
            "skopeo copy -q oci:{} docker-archive:{archive}:trees:1 >&2 && {podman} load -q -i {archive} >&2 || exit 1; \
             set -- \"$({podman} image mount trees:1)\"; test -n \"$1\" || exit 1; {LIST}",
            self.layout
        );
        self.inside(&script, &[])
    }
}

impl Drop for Trees {
    fn drop(&mut self) {
        // Podman keeps its user namespace by a process that waits.
        let file = self.home.path().join("run/libpod/tmp/pause.pid");
        let pid = std::fs::read_to_string(file).ok();
        if let Some(pid) = pid.and_then(|text| text.trim().parse().ok()) {
            let _ = nix::sys::signal::kill(
                nix::unistd::Pid::from_raw(pid),
                nix::sys::signal::Signal::SIGKILL,
            );
        }
    }
}

/// Shows the first lines that differ, where some do. A directory that is in no tar has the time at which it was made.
#[track_caller]
fn same(ours: &str, theirs: &str, whose: &str) {
    let is_implied = |line: &&str| line.starts_with("deep") && line.contains(" | d 755 0:0 ");
    let known = |list: &str| -> Vec<String> {
        let lines = list.lines().map(|line| {
            let end = line.find("0:0 ").filter(|_| is_implied(&line));
            line[..end.unwrap_or(line.len())].to_owned()
        });
        lines.collect()
    };
    let (ours, theirs) = (known(ours).join("\n"), known(theirs).join("\n"));
    if ours == theirs {
        return;
    }
    let mine: std::collections::BTreeSet<&str> = ours.lines().collect();
    let other: std::collections::BTreeSet<&str> = theirs.lines().collect();
    let only = |a: &std::collections::BTreeSet<&str>, b: &std::collections::BTreeSet<&str>| {
        a.difference(b)
            .take(20)
            .copied()
            .collect::<Vec<_>>()
            .join("\n")
    };
    panic!(
        "only of rl:\n{}\nonly of {whose}:\n{}",
        only(&mine, &other),
        only(&other, &mine)
    );
}

#[test]
fn layers_with_all_that_a_tar_can_say_are_unpacked_as_others_do() {
    needs!(
        Need::Ours,
        Need::Ranges,
        Need::Program("umoci"),
        Need::Program("podman"),
        Need::Program("getfattr")
    );
    let home = Home::new();
    let long = format!("deep/{}", "a-long-name/".repeat(20));
    let record = |text: &str| {
        // The length counts itself.
        let mut length = text.len() + 3;
        while length.to_string().len() + 1 + text.len() + 1 != length {
            length = length.to_string().len() + 1 + text.len() + 1;
        }
        format!("{length} {text}\n")
    };
    let below = Layer::new()
        .dir("a", 0o755)
        .file("a/gone", 0o644, "gone")
        // Podman gives a file the mode of its last link, umoci and rl do not; real tars say the same twice.
        .file("a/stays", 0o644, "stays")
        .dir("hidden", 0o755)
        .file("hidden/one", 0o644, "1")
        .dir("hidden/dir", 0o755)
        .file("hidden/dir/two", 0o644, "2")
        .dir("turns", 0o755)
        .file("turns/inner", 0o644, "a directory that becomes a file")
        .file("changes", 0o644, "a file that becomes a directory")
        .file("tool", 0o4755, "setuid")
        .file("group", 0o2755, "setgid")
        .dir("sticky", 0o1777)
        .owned("owned", 33, 42, "somebody's")
        .hard_link("a/linked", "a/stays")
        .symlink("absolute", "/a/stays")
        .symlink("relative", "../../a/stays")
        .symlink("dangling", "nowhere/at/all")
        .extended(&record("mtime=1600000000.123456789"))
        .file("timed", 0o640, "to the nanosecond")
        .extended(&record("SCHILY.xattr.user.note=a value"))
        .file("noted", 0o644, "with an attribute")
        .extended(&record(&format!("path={long}file")))
        .file("short", 0o644, "a name of two hundred and more")
        .file("empty", 0o644, "")
        .file("zeros", 0o644, vec![0; 300_000])
        .file("wh.not", 0o644, "no whiteout")
        .file("ä ö\\n", 0o644, "a name that is not plain");
    let above = Layer::new()
        .dir("a", 0o711)
        .file("a/.wh.gone", 0o644, "")
        .dir("hidden", 0o700)
        .file("hidden/.wh..wh..opq", 0o644, "")
        .file("hidden/new", 0o644, "new")
        .file("turns", 0o644, "now a file")
        .dir("changes", 0o755)
        .file("changes/inner", 0o644, "now a directory")
        .file(".wh.dangling", 0o644, "")
        .hard_link("noted-too", "hidden/new")
        .file("tool", 0o755, "no longer setuid");
    let image = Image::on_busybox(vec![below, above]);
    let layout = home.path().join("layout");
    image.oci_layout(&layout, "all", Compression::Gzip);
    home.rl("load -q -i").arg(&layout).ok();
    let id = home.rl("images -q").ok().text().trim().to_owned();
    let trees = Trees {
        layout: format!("{}:all", layout.display()),
        home,
    };
    let ours = trees.of_rl(&id);
    for (there, what) in [
        ("hidden/new | f 644 0:0", true),
        ("timed | f 640 0:0 1600000000.1234567890", true),
        ("tool | f 755", true),
        ("group | f 2755", true),
        ("owned | f 644 33:42", true),
        ("user.note=", true),
        ("a-long-name/file", true),
        ("a/linked | 5 bytes, 2 names", true),
        ("hidden/one", false),
        ("a/gone", false),
        ("dangling", false),
        (".wh.", false),
    ] {
        assert_eq!(ours.contains(there), what, "{there}:\n{ours}");
    }
    same(&ours, &trees.of_umoci(), "umoci");
    same(&ours, &trees.of_podman(), "podman");
}

#[test]
fn a_real_image_is_unpacked_as_others_do() {
    needs!(
        Need::Ours,
        Need::Ranges,
        Need::Debian,
        Need::Program("umoci"),
        Need::Program("podman")
    );
    let home = Home::new();
    let root = std::env::var("RL_TEST_DEBIAN").expect("checked by needs!");
    home.rl("import -q").arg(root).arg("debian").ok();
    home.rl("run --name c --network none debian sh -c")
        .arg(
            "set -e; rm -r /usr/share/doc; mkdir /usr/share/doc; echo new >/usr/share/doc/new; chmod u+s /bin/ls; ln /bin/cat /bin/second; \
             chown -R 33:33 /var/cache; mv /etc/apt /etc/moved; ln -s moved /etc/apt; rm /bin/tac; find /usr/lib -name '*.so*' | head -50 | xargs touch",
        )
        .ok();
    home.rl("commit -q c changed").ok();
    let layout = home.path().join("layout");
    home.rl("push -q changed")
        .arg(format!("oci:{}:real", layout.display()))
        .ok();
    let trees = Trees {
        layout: format!("{}:real", layout.display()),
        home,
    };
    let ours = trees.of_rl("changed");
    assert!(
        ours.lines().count() > 3_000,
        "{} lines",
        ours.lines().count()
    );
    same(&ours, &trees.of_umoci(), "umoci");
    same(&ours, &trees.of_podman(), "podman");
}
