//! `rl diff`, `rl export`: the files of a container, running or not.

use crate::support::Home;
use crate::support::host::Need;

const CHANGES: &str = "echo new >/new; mkdir -p /d; echo x >/d/x; chown 5:6 /d/x; ln /d/x /d/y; \
     rm /etc/group; chmod 700 /tmp; ln -s /nowhere /d/link; touch /d/$(printf %0150d 1)";

#[test]
fn diff_lists_what_was_added_changed_and_deleted() {
    needs!(Need::Ours);
    let home = Home::with_busybox();
    home.rl("run --name c busybox sh -c")
        .arg("echo new >/new; mkdir /d; echo x >/d/x; echo >>/etc/passwd; rm /bin/ls")
        .ok();
    home.rl("diff c")
        .says("C /bin\nD /bin/ls\nA /d\nA /d/x\nC /etc\nC /etc/passwd\nA /new");
    home.rl("run --name nothing busybox true").ok();
    home.rl("diff nothing").says("");
    home.rl("diff no-such").fails(125).stderr_has("no-such");
}

#[test]
fn an_export_imported_is_the_same_tree() {
    needs!(Need::Ours, Need::Ranges);
    let home = Home::with_busybox();
    home.rl("run --name c busybox sh -c")
        .arg(CHANGES.replace("rm /etc/group;", ""))
        .ok();
    let tar = home.path().join("c.tar");
    home.rl("export -o").arg(&tar).arg("c").ok();
    home.rl("import").arg(&tar).arg("again:1").ok();
    let look =
        "cat /new; stat -c '%u:%g %h' /d/x; readlink /d/link; ls /d | wc -l; stat -c %a /tmp";
    home.rl("run --rm again:1 sh -c")
        .arg(look)
        .says("new\n5:6 2\n/nowhere\n4\n700");
}

#[test]
fn a_running_container_is_exported_without_its_mounts() {
    needs!(Need::Ours);
    let home = Home::with_busybox();
    let data = home.dir("data");
    std::fs::write(data.join("secret"), "of the volume").unwrap();
    home.rl("run -d --name c -v")
        .arg(format!("{}:/data", data.display()))
        .args(["busybox", "sh", "-c", "echo in >/new; sleep 1000"])
        .ok();
    crate::support::wait_for("the file", || {
        home.rl("diff c")
            .ok()
            .stdout
            .contains("A /new")
            .then_some(())
    });
    let list = home
        .sh("\"$RL\" export c | tar -t")
        .env("RL", crate::support::rl_binary())
        .ok();
    list.stdout_has("new\n")
        .stdout_has("data/\n")
        .stdout_lacks("secret")
        .stdout_lacks("dev/null");
    home.rl("rm -f c").ok();
}
