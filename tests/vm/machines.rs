//! Machines that give less, of those that only root of a whole machine can make: the rows of `GUEST`.

use crate::guest::{DEV, ROOT};
use crate::judge::{check, inner};
use crate::table::{COMMANDS, GUEST, MEMORY};

/// Undone at the end, whatever happened.
struct Undo(&'static str);

impl Drop for Undo {
    fn drop(&mut self) {
        let output = ROOT.sh(self.0).run();
        if !output.status.success() {
            eprintln!("{}: {}", self.0, output.stderr);
        }
    }
}

fn try_row(name: &str) {
    let row = GUEST
        .iter()
        .find(|row| row.name == name)
        .expect("a row of this name");
    let [make, undo] = row.made else {
        panic!("{name}: a script that makes it and one that undoes it");
    };
    let _undo = Undo(undo);
    ROOT.sh(make).ok();
    let commands: Vec<(&str, &str)> = COMMANDS.into_iter().chain([MEMORY]).collect();
    let mut output = DEV
        .sh(&format!(
            "set +eu; export DIR=$(mktemp -d) RL=/srv/rl PULL='rl import /srv/busybox.tar busybox'
             export RL_ROOT=$DIR/store; cd $DIR
             {}
             {}
             cd /; rm -rf $DIR",
            row.before,
            inner(row, &commands)
        ))
        .ok();
    row.name.clone_into(&mut output.shown);
    check(row, &commands, &output);
}

/// One test for each row.
macro_rules! rows {
    ($($name:ident)+) => {
        $(#[test] fn $name() { try_row(stringify!($name)); })+
        #[test]
        fn every_row_is_a_test() {
            let rows: Vec<&str> = GUEST.iter().map(|row| row.name).collect();
            assert_eq!(rows, [$(stringify!($name)),+]);
        }
    };
}

rows! {
    a_login_of_systemd
    user_namespaces_switched_off
    no_module_for_overlays
    no_module_for_tun
    a_home_on_nfs
    a_store_on_nfs
    hidden_processes
    apparmor_without_capabilities
}
