//! Help, manual pages and completions: of every command there is, found in what the program prints.

use std::path::Path;
use std::process::Command;

use super::{Place, snapshot};

/// The commands that `--help` lists.
fn commands(place: &Place) -> Vec<String> {
    let help = place.run("--help").ok().out;
    let list = help.split_once("Commands:\n").expect("commands are listed").1;
    let lines = list.lines().take_while(|line| !line.is_empty());
    let names = lines.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    names.filter_map(|line| line.split_whitespace().next()).filter(|name| *name != "help").map(String::from).collect()
}

/// The help as it is where nothing says how wide the terminal is.
fn help(place: &Place, args: &str) -> String {
    let mut command = place.command(args);
    place.ran(command.env_remove("COLUMNS").output().unwrap()).ok().out
}

#[test]
fn every_command_has_help_with_examples() {
    let place = Place::new();
    let commands = commands(&place);
    assert!(commands.len() >= 9, "{commands:?}");
    snapshot("help", &help(&place, "--help"));
    for name in &commands {
        let text = help(&place, &format!("{name} --help"));
        assert!(text.contains("\nExamples:\n  diffulex-edge "), "{name}: {text}");
        snapshot(&format!("help-{name}"), &text);
    }
}

#[test]
fn every_command_has_a_page() {
    let place = Place::new();
    let (commands, written) = (commands(&place), place.run("man --out pages").ok().out);
    assert_eq!(written.lines().count(), commands.len() + 1, "{written}");
    let names = commands.iter().map(|name| format!("diffulex-edge-{name}")).chain(["diffulex-edge".into()]);
    for name in names {
        let page = std::fs::read_to_string(place.path(&format!("pages/{name}.1"))).unwrap();
        assert!(
            page.contains(&format!(".TH {name} 1  \"diffulex-edge {}\"", env!("CARGO_PKG_VERSION"))),
            "{name}: {page}"
        );
        for section in ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "EXAMPLES"] {
            assert!(page.contains(&format!("\n.SH {section}\n")), "{name} has no {section}: {page}");
        }
        let examples = page.split_once("\n.SH EXAMPLES\n").unwrap().1;
        assert!(examples.contains("\ndiffulex\\-edge "), "{name}: {examples}");
    }
    let main = std::fs::read_to_string(place.path("pages/diffulex-edge.1")).unwrap();
    assert_eq!(place.run("man").ok().out, main);
    assert!(commands.iter().all(|name| main.contains(&format!("diffulex\\-edge\\-{name}(1)"))), "{main}");
    let verify = std::fs::read_to_string(place.path("pages/diffulex-edge-verify.1")).unwrap();
    assert!(verify.contains("Exit status: 0 all checks passed"), "{verify}");
    std::fs::write(place.path("file"), "").unwrap();
    place.run("man --out file").failed(1, &["file"]);
}

/// What bash offers behind `line`, with the script sourced.
fn completed(script: &Path, line: &str) -> Vec<String> {
    let program = r#"
        source "$1"
        registered=$(complete -p diffulex-edge) || exit 3
        [[ $registered =~ -F\ ([^\ ]+) ]] || exit 4
        COMP_WORDS=($2) COMP_CWORD=$(( ${#COMP_WORDS[@]} - 1 ))
        if [[ $2 == *" " ]]; then COMP_WORDS+=("") COMP_CWORD=$(( COMP_CWORD + 1 )); fi
        "${BASH_REMATCH[1]}" diffulex-edge "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
        printf '%s\n' "${COMPREPLY[@]}"
    "#;
    let done = Command::new("bash").args(["--norc", "-c", program, "bash"]).arg(script).arg(line).output().unwrap();
    assert!(done.status.success(), "{line}: {done:?}");
    String::from_utf8(done.stdout).unwrap().lines().map(String::from).collect()
}

#[test]
fn bash_completes_commands_flags_and_values() {
    let place = Place::new();
    let script = place.path("completions.bash");
    std::fs::write(&script, place.run("completions bash").ok().out).unwrap();
    let parsed = Command::new("bash").arg("-n").arg(&script).output().unwrap();
    assert!(parsed.status.success() && parsed.stderr.is_empty(), "{parsed:?}");
    let all = completed(&script, "diffulex-edge ");
    assert!(commands(&place).iter().all(|name| all.contains(name)), "{all:?}");
    assert_eq!(completed(&script, "diffulex-edge ver"), ["verify"]);
    assert_eq!(completed(&script, "diffulex-edge verify --tol"), ["--tolerance"]);
    assert_eq!(completed(&script, "diffulex-edge export --backend co"), ["coreml"]);
    assert!(completed(&script, "diffulex-edge export --dtype w8").contains(&"w8a16".into()));
}

#[test]
fn every_shell_learns_every_command() {
    let place = Place::new();
    let commands = commands(&place);
    for (shell, sign) in [
        ("bash", "complete -F _diffulex__edge"),
        ("zsh", "#compdef diffulex-edge"),
        ("fish", "complete -c diffulex-edge"),
        ("elvish", "edit:completion:arg-completer[diffulex-edge]"),
        ("powershell", "Register-ArgumentCompleter -Native -CommandName 'diffulex-edge'"),
    ] {
        let script = place.run(&format!("completions {shell}")).ok().out;
        assert!(script.contains(sign), "{shell}: {script}");
        assert!(commands.iter().all(|name| script.contains(name.as_str())), "{shell}");
        assert!(script.contains("tolerance"), "{shell}");
    }
    place.run("completions tcsh").failed(2, &["tcsh", "bash", "zsh", "fish"]);
}
