//! Which backend runs which case, and why not.

use crate::backend::{Backend, Image, On};

/// One row a case: the image it wants, then what each backend does with it. All but `runs` is a reason.
macro_rules! table {
    ($($image:ident $room:ident::$case:ident $docker:ident $attach:ident $native:ident $local:ident)*) => {
        mod docker { use super::*; $(cell!(Docker $image $room $case $docker);)* }
        mod attach { use super::*; $(cell!(Attach $image $room $case $attach);)* }
        mod native { use super::*; $(cell!(Native $image $room $case $native);)* }
        mod local { use super::*; $(cell!(Local $image $room $case $local);)* }
    };
}

macro_rules! cell {
    ($on:ident $image:ident $room:ident $case:ident runs) => {
        #[tokio::test(flavor = "multi_thread")]
        async fn $case() {
            if let Some(backend) = Backend::start_up(On::$on, Image::$image, stringify!($case)).await {
                backend.holds(crate::$room::$case(&backend)).await;
                backend.ends().await;
            }
        }
    };
    ($on:ident $image:ident $room:ident $case:ident stream) => {
        cell!($case "the stream is no part of it: docker:: runs it");
    };
    ($on:ident $image:ident $room:ident $case:ident pipes) => {
        cell!($case "pipes can be opened in /proc, which sockets cannot: only root inside can, and only its own stream");
    };
    ($on:ident $image:ident $room:ident $case:ident images) => {
        cell!($case "plain processes have no images");
    };
    ($on:ident $image:ident $room:ident $case:ident open) => {
        cell!($case "plain processes share the host: nothing is closed to them");
    };
    ($on:ident $image:ident $room:ident $case:ident boundless) => {
        cell!($case "plain processes have no bounds: it would be the host's memory, processes or disk");
    };
    ($on:ident $image:ident $room:ident $case:ident drivers) => {
        cell!($case "what a container writes is bounded by its daemon's storage driver, which few can");
    };
    ($on:ident $image:ident $room:ident $case:ident lasting) => {
        cell!($case "each plain process is started from the program where it lies");
    };
    ($on:ident $image:ident $room:ident $case:ident launcher) => {
        cell!($case "the program launches the sandboxes too: its silence is over before there is one");
    };
    ($on:ident $image:ident $room:ident $case:ident no_one) => {
        cell!($case "no process of ours stands between the engine and its sandboxes");
    };
    ($on:ident $image:ident $room:ident $case:ident none) => {
        cell!($case "it keeps no snapshots");
    };
    ($case:ident $reason:literal) => {
        #[test]
        #[ignore = $reason]
        fn $case() {}
    };
}

table! {
    //    case                                          docker   attach    native    local
    Empty starts::serves                                runs     runs      runs      runs
    Empty starts::a_missing_image_is_told               runs     stream    runs      images
    Empty starts::missing_images_are_listed             runs     stream    runs      images
    Empty starts::a_missing_workdir_is_told             runs     stream    runs      images
    Empty starts::a_relative_workdir_is_told            runs     stream    runs      runs
    Empty starts::the_images_user_and_variables_hold    runs     stream    runs      images
    Empty starts::an_unknown_user_is_told               runs     stream    runs      images
    Empty starts::a_foreign_program_is_told             runs     stream    runs      runs
    Empty starts::silence_is_told                       runs     stream    launcher  runs
    Empty starts::many_start_at_once                    runs     stream    runs      runs
    Empty starts::a_start_given_up_leaves_nothing       runs     stream    runs      runs
    Empty starts::a_rebuilt_program_does_not_disturb    runs     stream    runs      lasting

    Empty inside::it_is_closed_but_for_the_toolbox      runs     stream    runs      open
    Debian inside::a_test_suite_finds_what_it_needs     runs     stream    runs      open
    Debian inside::devices_are_few_and_usable           runs     stream    runs      open
    Debian inside::system_files_are_read_only           runs     stream    runs      open
    Debian inside::temporary_files_have_their_places    runs     stream    runs      open
    Debian inside::neighbours_do_not_meet               runs     stream    runs      open
    Debian inside::no_command_speaks_for_the_toolbox    runs     pipes     runs      open
    Debian inside::no_test_looks_into_the_toolbox       runs     stream    runs      open

    Debian commands::a_deadline_takes_everything        runs     stream    runs      runs
    Debian commands::floods                             runs     runs      runs      runs
    Debian commands::background_children_hold_nobody    runs     stream    runs      runs
    Debian commands::bytes_that_are_no_text             runs     runs      runs      runs
    Debian commands::a_hundred_at_once                  runs     stream    runs      runs
    Debian commands::what_cannot_start_did_not_fail     runs     stream    runs      runs

    Debian bounds::memory_of_a_command_is_counted       runs     stream    runs      boundless
    Empty bounds::memory_of_everything_is_the_end       runs     stream    runs      boundless
    Debian bounds::memory_survived_is_not_the_end       runs     stream    runs      boundless
    Debian bounds::a_fork_bomb_is_survived              runs     stream    runs      boundless
    Debian bounds::shared_memory_is_bounded             runs     stream    runs      boundless

    Debian bounds::a_full_disk_is_survived              drivers  drivers   runs      boundless
    Debian bounds::files_are_counted                    drivers  drivers   runs      boundless

    Debian ends::a_kill_from_outside_is_told            runs     runs      runs      runs
    Debian ends::a_cut_stream_ends_everything           runs     stream    runs      runs
    Debian ends::busy_mounts_cost_no_wait               runs     stream    runs      runs
    Empty ends::a_dropped_sandbox_goes                  runs     stream    runs      runs
    Empty ends::a_retired_sandbox_goes                  runs     stream    runs      runs
    Empty ends::a_sweep_leaves_live_runs_alone          runs     stream    runs      runs

    Debian engines::a_dead_engine_leaves_nothing        runs     runs      runs      runs
    Debian engines::a_dead_launcher_is_replaced         no_one   no_one    runs      no_one

    Debian snapshots::files_are_built_upon              none     none      runs      none
    Debian snapshots::what_is_not_in_files_is_not_kept  none     none      runs      none
    Debian snapshots::samples_start_where_the_first_was_prepared none none runs     none
    Debian snapshots::what_cannot_be_kept_is_done_each_time none none      runs      none

    Empty cycles::many_cycles_leave_nothing             runs     stream    runs      runs
}
