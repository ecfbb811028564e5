//! What goes to the terminal beside a command's own output, to the error stream: errors, progress, notes. Below: answers
//! that are drawn, lines that are typed, Ctrl-C.

pub(crate) mod interrupt;
pub(crate) mod line;
pub(crate) mod live;

use std::io::{IsTerminal, Write};
use std::sync::LazyLock;

use diffulex_edge::Error;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Prints an error the way its kind deserves.
pub(crate) fn print_error(error: &Error) {
    match error {
        Error::Recipe(diagnostics) => note(&diagnostics.render(colored())),
        // These say of themselves whose mistake they are: `bug[rule] …`.
        Error::Pass(_) | Error::Build(_) => note(&error.to_string()),
        _ => note(&format!("error: {error}")),
    }
}

/// Prints a line to the error stream; where that is closed, nobody is listening.
pub(crate) fn note(text: &str) {
    bars().suspend(|| {
        let _ = writeln!(std::io::stderr(), "{text}");
    });
}

/// Prints text to the output stream.
pub(crate) fn print(text: &str) -> Result<(), Error> {
    let mut out = std::io::stdout();
    let written = bars().suspend(|| out.write_all(text.as_bytes()).and_then(|()| out.flush()));
    written.map_err(Error::io("standard output"))
}

/// Prints text whose reader may go away: work that is done counts all the same.
pub(crate) fn say(text: &str) -> Result<(), Error> {
    match print(text) {
        Err(Error::Io { error, .. }) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        done => done,
    }
}

/// A bar for `total` bytes, drawn only on a terminal.
pub(crate) fn bytes_bar(name: &str) -> ProgressBar {
    let style = ProgressStyle::with_template("{prefix} {msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}");
    bar(style, name)
}

/// A bar for a number of steps, drawn only on a terminal.
pub(crate) fn steps_bar(name: &str) -> ProgressBar {
    bar(ProgressStyle::with_template("{prefix} {spinner} {pos} {msg}"), name)
}

fn bar(style: Result<ProgressStyle, indicatif::style::TemplateError>, name: &str) -> ProgressBar {
    let bar = bars().add(ProgressBar::no_length()).with_prefix(name.to_string());
    match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

/// All bars, which share the end of the screen.
fn bars() -> &'static MultiProgress {
    static BARS: LazyLock<MultiProgress> = LazyLock::new(|| {
        MultiProgress::with_draw_target(match std::io::stderr().is_terminal() {
            true => ProgressDrawTarget::stderr(),
            false => ProgressDrawTarget::hidden(),
        })
    });
    &BARS
}

/// Whether the error stream shows colors; `NO_COLOR` turns them off.
fn colored() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}
