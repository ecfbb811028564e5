//! The program at a terminal: keys in, a screen to look at.

use std::fs;
use std::io::{Read, Write};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use pty_process::Size;
use pty_process::blocking::{Command, Pty, open};

use super::{Place, fixture, root};

/// A program at a terminal of its own.
struct Terminal {
    pty: Arc<Pty>,
    child: std::process::Child,
    seen: Arc<Mutex<Seen>>,
}

/// What has come from the program.
struct Seen {
    screen: vt100::Parser,
    bytes: Vec<u8>,
}

const ROWS: u16 = 24;
const COLUMNS: u16 = 60;

impl Terminal {
    fn new(place: &Place, args: &str) -> Terminal {
        Terminal::with(place, args, false)
    }

    fn with(place: &Place, args: &str, no_color: bool) -> Terminal {
        let (pty, pts) = open().unwrap();
        pty.resize(Size::new(ROWS, COLUMNS)).unwrap();
        let command =
            Command::new(env!("CARGO_BIN_EXE_diffulex-edge")).args(args.split(' ')).current_dir(place.path(""));
        let command = command.env("XDG_CACHE_HOME", place.path("cache")).env("XDG_STATE_HOME", place.path("state"));
        let command = command.env("TERM", "xterm-256color").env_remove("NO_COLOR");
        let command = if no_color { command.env("NO_COLOR", "1") } else { command };
        let child = command.spawn(pts).unwrap();
        let screen = vt100::Parser::new(ROWS.try_into().unwrap(), COLUMNS.try_into().unwrap(), 1000);
        let (pty, seen) = (Arc::new(pty), Arc::new(Mutex::new(Seen { screen, bytes: vec![] })));
        let (from, to) = (pty.clone(), seen.clone());
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(read @ 1..) = (&*from).read(&mut buffer) {
                let mut seen = to.lock().unwrap();
                seen.screen.process(&buffer[..read]);
                seen.bytes.extend(&buffer[..read]);
            }
        });
        let mut terminal = Terminal { pty, child, seen };
        if args.starts_with("chat") {
            terminal.wait("the prompt", |screen| prompt(screen, ""));
        }
        terminal
    }

    fn keys(&mut self, keys: &str) {
        (&*self.pty).write_all(keys.as_bytes()).unwrap();
    }

    /// The rows of the screen, as the eye sees them: a row that goes on in the next is one of its own.
    fn screen(&self) -> String {
        let seen = self.seen.lock().unwrap();
        let rows: Vec<String> = seen.screen.screen().rows(0, COLUMNS).collect();
        rows.join("\n").trim_end().to_string()
    }

    /// Everything that came since the last call.
    fn output(&self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.seen.lock().unwrap().bytes)).into_owned()
    }

    /// Waits until the screen looks as it should; the limit only ends a test that has failed.
    fn wait(&mut self, what: &str, looks: impl Fn(&str) -> bool) {
        let began = Instant::now();
        while !looks(&self.screen()) {
            assert!(began.elapsed() < Duration::from_secs(120), "no {what} on\n{}", self.screen());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Says something and waits for the next prompt; what was drawn meanwhile.
    fn say(&mut self, line: &str) -> String {
        self.output();
        self.keys(line);
        self.wait("line", |screen| prompt(screen, line));
        self.keys("\r");
        self.wait("answer", |screen| prompt(screen, ""));
        self.output()
    }

    fn ends(mut self) {
        assert!(self.child.wait().unwrap().success());
    }
}

/// Whether the screen ends in the prompt and this text.
fn prompt(screen: &str, text: &str) -> bool {
    screen.trim_end().rsplit('\n').next().is_some_and(|last| last.trim_end() == format!("> {text}").trim_end())
}

#[test]
fn ten_turns_are_drawn_and_leave_nothing_behind() {
    let place = Place::new();
    std::os::unix::fs::symlink(root().join("recipes/demo/model"), place.path("demo")).unwrap();
    let mut terminal = Terminal::new(&place, "chat demo");
    for turn in 0..10 {
        let drawn = terminal.say(["What is 27 + 58?", "Tell me a story about a fox and a lantern."][turn % 2]);
        assert!(drawn.contains("\x1b[2m·") && drawn.contains("\x1b[32m"), "{drawn:?}");
        let screen = terminal.screen();
        assert!(!screen.contains('·'), "{screen}");
    }
    assert!(terminal.say("/stats").contains("of them reused from the turns before"));
    terminal.keys("/quit\r");
    terminal.ends();
    use std::os::unix::fs::PermissionsExt;
    let history = place.path("state/diffulex-edge/history");
    assert_eq!(history.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert!(fs::read_to_string(history).unwrap().contains("What is 27 + 58?"));
}

#[test]
fn an_answer_stands_on_the_screen_as_elsewhere() {
    let place = Place::new();
    std::os::unix::fs::symlink(root().join("recipes/demo/model"), place.path("demo")).unwrap();
    let prompt = "Tell me a story about a fox and a lantern.";
    let mut terminal = Terminal::new(&place, "chat demo");
    terminal.say(prompt);
    let screen = terminal.screen();
    let mut command = place.command("run demo --prompt");
    let piped = place.ran(command.arg(prompt).output().unwrap()).ok().out;
    let flat = |text: &str| text.replace(['\n', ' '], "");
    assert!(flat(&screen).contains(&format!("{}{}>", flat(prompt), flat(&piped))), "{screen}\n{piped}");
    terminal.keys("\x04");
    terminal.ends();
}

#[test]
fn ctrl_c_stops_the_answer_and_not_the_program() {
    let place = Place::new();
    std::os::unix::fs::symlink(fixture("dream/tiny"), place.path("dream")).unwrap();
    // Thousands of passes, so that the key comes in time on any machine.
    let slow = "chat dream --algorithm dream.diffusion_generate --max-tokens 120 --steps 100000";
    let mut terminal = Terminal::new(&place, slow);
    for turn in 1..3 {
        terminal.keys("Hello\r");
        terminal.wait("masks", |screen| screen.contains('·'));
        terminal.keys("\x03");
        terminal.wait("stop", |screen| screen.matches("(stopped;").count() == turn && prompt(screen, ""));
        assert!(!terminal.screen().contains('·'), "{}", terminal.screen());
    }
    // At the prompt it gives up the line.
    terminal.keys("some words");
    terminal.wait("line", |screen| prompt(screen, "some words"));
    terminal.keys("\x03");
    terminal.wait("prompt", |screen| prompt(screen, ""));
    terminal.say("/save talk.json");
    assert!(fs::read_to_string(place.path("talk.json")).unwrap().contains("\"stopped\": true"));
    terminal.keys("\x04");
    terminal.ends();
}

#[test]
fn a_stopped_run_leaves_nothing_behind() {
    let place = Place::new();
    std::os::unix::fs::symlink(fixture("dream/tiny"), place.path("dream")).unwrap();
    let slow = "run dream --prompt Hello --algorithm dream.diffusion_generate --max-tokens 120 --steps 100000";
    let mut terminal = Terminal::new(&place, slow);
    terminal.wait("masks", |screen| screen.contains('·'));
    terminal.keys("\x03");
    assert_eq!(terminal.child.wait().unwrap().code(), Some(1));
    terminal.wait("end", |screen| !screen.contains('·'));
}

#[test]
fn lines_are_edited() {
    let place = Place::new();
    std::os::unix::fs::symlink(root().join("recipes/demo/model"), place.path("demo")).unwrap();
    let mut terminal = Terminal::new(&place, "chat demo");
    // Tab completes a command, and the file behind it.
    terminal.keys("/te");
    terminal.wait("hint", |screen| screen.contains("/temp <0.0-2.0>"));
    terminal.keys("\t0.5\r");
    terminal.wait("setting", |screen| screen.contains("temp is 0.5") && prompt(screen, ""));
    // Alt-Enter, a stroke at the end and pasted text make messages of several lines.
    for keys in ["Hello!\x1b\rWho are you?", "Hello!\\\rWho are you?", "\x1b[200~Hello!\nWho are you?\x1b[201~"] {
        terminal.keys(keys);
        terminal.wait("lines", |screen| screen.trim_end().ends_with("Who are you?"));
        terminal.keys("\r");
        terminal.wait("answer", |screen| prompt(screen, ""));
    }
    // The history gives back the last of them, whole.
    terminal.keys("\x1b[A");
    terminal.wait("history", |screen| screen.trim_end().ends_with("> Hello!\nWho are you?"));
    terminal.keys("\x03");
    terminal.wait("prompt", |screen| prompt(screen, ""));
    terminal.say("/save talk.json");
    let saved = fs::read_to_string(place.path("talk.json")).unwrap();
    assert_eq!(saved.matches("\"Hello!\\nWho are you?\"").count(), 3, "{saved}");
    terminal.keys("/load talk");
    terminal.wait("line", |screen| prompt(screen, "/load talk"));
    terminal.keys("\t\r");
    terminal.wait("file", |screen| screen.contains("loaded 6 messages"));
    terminal.keys("\x04");
    terminal.ends();
}

#[test]
fn a_new_size_leaves_nothing_behind() {
    let place = Place::new();
    std::os::unix::fs::symlink(fixture("dream/tiny"), place.path("dream")).unwrap();
    let slow = "chat dream --algorithm dream.diffusion_generate --max-tokens 120 --steps 100000";
    let mut terminal = Terminal::new(&place, slow);
    terminal.keys("Hello\r");
    terminal.wait("masks", |screen| screen.contains('·'));
    for columns in [31, 80, 24] {
        let size = (ROWS.try_into().unwrap(), columns.try_into().unwrap());
        terminal.seen.lock().unwrap().screen.screen_mut().set_size(size.0, size.1);
        terminal.pty.resize(Size::new(ROWS, columns)).unwrap();
        terminal.output();
        terminal.wait("masks", |screen| screen.contains('·'));
        std::thread::sleep(Duration::from_millis(50));
    }
    terminal.keys("\x03");
    terminal.wait("stop", |screen| screen.contains("(stopped;") && !screen.contains('·'));
    terminal.keys("\x04");
    terminal.ends();
}

#[test]
fn plain_text_and_no_color_are_heard() {
    let place = Place::new();
    std::os::unix::fs::symlink(root().join("recipes/demo/model"), place.path("demo")).unwrap();
    let mut terminal = Terminal::new(&place, "chat demo --plain");
    let drawn = terminal.say("What is 27 + 58?");
    assert!(drawn.contains("27 + 58 = 85.") && !drawn.contains('·'), "{drawn:?}");
    terminal.keys("\x04");
    terminal.ends();
    let mut terminal = Terminal::with(&place, "chat demo", true);
    let drawn = terminal.say("What is 27 + 58?");
    assert!(drawn.contains('·') && !drawn.contains("\x1b[2m") && !drawn.contains("\x1b[32m"), "{drawn:?}");
    terminal.keys("\x04");
    terminal.ends();
}
