//! Symbolic links that a commit can have where `coord` writes.
use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
};

use crate::hooks::World;

#[tokio::test(flavor = "multi_thread")]
async fn the_record_is_never_written_through_a_link() {
    let world = World::new().await;
    let me = world.clone("me");
    let outside = world.folder.path().join("outside");
    fs::create_dir(&outside).expect("a folder");
    let folder = me.path.join(".coord");
    symlink(&outside, &folder).expect("a link");
    let done = me.coord.run(&["lock", "src/a.rs"]);
    done.assert_code(1).assert_says("could not be recorded").assert_says("is a symbolic link");
    assert_eq!(fs::read_dir(&outside).expect("a folder").count(), 0);
    me.write("src/a.rs", "mine");
    me.git(&["commit", "-q", "-m", "x"]).assert_code(1).assert_says("is a symbolic link");
    assert_eq!(fs::read_dir(&outside).expect("a folder").count(), 0);
    fs::remove_file(&folder).expect("a link");
    for name in ["locks.lock", "locks.new", ".gitignore"] {
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir(&folder).expect("a folder");
        symlink(outside.join(name), folder.join(name)).expect("a link");
        me.coord.run(&["lock", "src/a.rs"]);
        assert_eq!(fs::read_dir(&outside).expect("a folder").count(), 0, "{name}");
    }
    // A record that is a link is replaced, and what is behind it stays.
    fs::remove_dir_all(&folder).expect("a folder");
    fs::create_dir(&folder).expect("a folder");
    let text = r#"{"version":1,"locks":{}}"#;
    fs::write(outside.join("theirs"), text).expect("a file");
    symlink(outside.join("theirs"), folder.join("locks.json")).expect("a link");
    me.coord.run(&["lock", "src/a.rs"]).assert_code(0);
    assert_eq!(fs::read_to_string(outside.join("theirs")).expect("a file"), text);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_its_owner_can_enter_the_folder_of_the_record() {
    let world = World::new().await;
    let me = world.clone("me");
    me.coord.shell("umask 0; coord lock src/a.rs", "").assert_code(0);
    for (name, mode) in [(".coord", 0o700), (".coord/locks.json", 0o600)] {
        let file = fs::metadata(me.path.join(name)).expect("it is there");
        assert_eq!(file.permissions().mode() & 0o777, mode, "{name}");
    }
}
