//! Completions for shells.
use crate::support::{Coord, Folder};

#[test]
fn shells_accept_the_completions() {
    let folder = Folder::new();
    let coord = Coord::new().inside(folder.path());
    for (shell, word) in [("bash", "complete"), ("zsh", "#compdef coord"), ("fish", "complete -c")]
    {
        let done = coord.run(&["completions", shell]);
        done.assert_code(0).assert_says(word).assert_says("guardrails");
        std::fs::write(folder.path().join(shell), &done.out).expect("a file");
        // Only shells that are installed can check the syntax.
        let is_there = coord.shell(&format!("command -v {shell}"), "").code == 0;
        if is_there {
            coord.shell(&format!("{shell} -n {shell}"), "").assert_code(0);
        }
    }
    let script = ". ./bash && COMP_WORDS=(coord guard) COMP_CWORD=1 && _coord coord guard coord \
                  && echo \"${COMPREPLY[@]}\"";
    let done = coord.command("bash").args(["-c", script]).output().expect("bash runs");
    assert_eq!(String::from_utf8_lossy(&done.stdout), "guardrails\n", "{done:?}");
}
