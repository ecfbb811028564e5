//! Ctrl-C: ends the program, but while an answer forms only the answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use diffulex_edge::Error;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use signal_hook::consts::SIGINT;
use signal_hook::flag;

/// Listens for Ctrl-C.
pub(crate) struct Interrupt {
    /// Nothing is under way that could be stopped alone.
    idle: Arc<AtomicBool>,
    pressed: Arc<AtomicBool>,
}

/// Something that Ctrl-C stops, as long as this value lives. Meanwhile keys are not echoed into it.
pub(crate) struct Stoppable<'a> {
    interrupt: &'a Interrupt,
    modes: Option<Termios>,
}

impl Interrupt {
    /// Begins to listen. With `twice` a second Ctrl-C ends the program, whatever forms.
    pub(crate) fn listen(twice: bool) -> Result<Interrupt, Error> {
        let interrupt = Interrupt { idle: Arc::new(AtomicBool::new(true)), pressed: Arc::new(AtomicBool::new(false)) };
        flag::register_conditional_default(SIGINT, interrupt.idle.clone())
            .and_then(|_| flag::register(SIGINT, interrupt.pressed.clone()))
            .and_then(|_| if twice { flag::register(SIGINT, interrupt.idle.clone()).map(drop) } else { Ok(()) })
            .map_err(Error::io("Ctrl-C"))?;
        Ok(interrupt)
    }

    /// Begins something that Ctrl-C stops.
    pub(crate) fn stoppable(&self) -> Stoppable<'_> {
        self.pressed.store(false, Ordering::SeqCst);
        self.idle.store(false, Ordering::SeqCst);
        let modes = tcgetattr(std::io::stdin()).ok();
        if let Some(modes) = &modes {
            let mut silent = modes.clone();
            silent.local_modes.remove(LocalModes::ECHO);
            // Where keys are echoed they disturb the picture, and no more.
            let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &silent);
        }
        Stoppable { interrupt: self, modes }
    }
}

impl Stoppable<'_> {
    /// Whether it is to stop.
    pub(crate) fn is_stopped(&self) -> bool {
        self.interrupt.pressed.load(Ordering::SeqCst)
    }
}

impl Drop for Stoppable<'_> {
    fn drop(&mut self) {
        if let Some(modes) = &self.modes {
            let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, modes);
        }
        self.interrupt.idle.store(true, Ordering::SeqCst);
    }
}
