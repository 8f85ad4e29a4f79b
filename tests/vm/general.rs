//! The most telling tests of the general suite, in the guest: another kernel, another login, the same promises.

use crate::guest::DEV;

/// Runs these tests of `tests/it` as dev, each in a process of its own.
fn passes(names: &[&str]) {
    let output = DEV
        .sh(&format!(
            // Two of these lists run at the same time: each has a directory of its own.
            "work=$(mktemp -d ~/it.XXXXXX); failed=
             export RL_BIN=/srv/rl RL_TEST_HOMES=$work
             for name in {}; do rc=0; it --exact $name --nocapture >$work/log 2>&1 || rc=$?
               grep -q '1 passed' $work/log && [[ $rc == 0 ]] || {{ failed+=\" $name\"; echo \"exit code $rc\"; cat $work/log; }}; done
             cat $work/skips 2>/dev/null || true
             rm -rf $work
             echo \"failed:$failed\"",
            names.join(" ")
        ))
        .ok();
    output.stdout_is("failed:");
}

#[test]
fn the_life_of_a_program() {
    passes(&[
        "run::stdin_of_any_size_arrives_whole",
        "run::signals_are_forwarded",
        "run::init_reaps_what_others_left",
        "run::rm_leaves_nothing_when_killed_by_a_signal",
        "run::the_hosts_own_programs_run_without_any_image",
        "life::what_fails_is_started_again_as_often_as_asked",
        "life::the_detach_keys_leave_it_running_and_its_terminal_follows_ours",
    ]);
}

#[test]
fn what_a_program_sees_and_may_do() {
    passes(&[
        "namespaces::every_namespace_is_the_containers_own",
        "namespaces::the_cgroup_is_the_root_of_its_own_view",
        "namespaces::clocks_can_be_set_ahead",
        "namespaces::a_container_inside_a_container_has_room",
        "ids::root_inside_is_the_user_and_the_rest_their_range",
        "ids::keep_id_keeps_the_users_own_ids",
        "security::the_container_sees_descriptors_0_1_and_2_only",
        "security::a_seccomp_filter_is_on_unless_refused",
        "security::calls_that_need_an_administrator_are_refused",
        "security::no_image_can_write_to_rls_own_file",
        "exec::a_terminal_has_size_keys_and_an_end",
        "exec::the_confinement_is_the_containers",
    ]);
}

#[test]
fn files_and_networks() {
    passes(&[
        "mounts::a_read_only_bind_mount_cannot_be_made_writable_from_inside",
        "mounts::proc_and_sys_are_masked_and_read_only_where_they_could_hurt",
        "mounts::links_in_the_image_do_not_lead_to_the_host",
        "network::none_is_loopback_alone",
        "network::pasta_keeps_the_hosts_loopback_closed",
        "network::slirp4netns_keeps_the_hosts_loopback_closed",
        "network::the_helper_goes_with_the_container",
    ]);
}
