//! The BPF object's programs, loaded at once or by a thread beside.

use crate::linux::data_plane::DataPlaneError;
use aya::Ebpf;
use aya::programs::{Program, ProgramError};
use std::num::NonZero;
use std::panic::resume_unwind;
use std::sync::{Mutex, PoisonError};
use std::thread::{self, JoinHandle};

/// The object, or whoever is loading its programs.
pub(super) enum Object {
    Here(Box<Loaded>),
    Away(JoinHandle<Box<Loaded>>),
    /// On the way between the two.
    Nowhere,
}

pub(super) struct Loaded {
    ebpf: Ebpf,
    programs: Vec<&'static str>,
    /// Why a program that a thread has loaded is not; told once.
    failed: Option<DataPlaneError>,
}

impl Object {
    pub fn of(ebpf: Ebpf) -> Self {
        Self::Here(Box::new(Loaded { ebpf, programs: Vec::new(), failed: None }))
    }

    /// Loads these programs beside; what can be done without them goes on.
    pub fn begin(&mut self, names: Vec<&'static str>) -> Result<(), DataPlaneError> {
        self.loaded()?;
        if let Self::Here(mut loaded) = std::mem::replace(self, Self::Nowhere) {
            *self = Self::Away(thread::spawn(move || {
                loaded.failed = loaded.load(&names).err();
                loaded
            }));
        }
        Ok(())
    }

    /// Loads those that are not yet.
    pub fn load(&mut self, names: &[&'static str]) -> Result<(), DataPlaneError> {
        self.loaded()?.load(names)
    }

    /// Waits for the thread that loads, if there is one.
    pub fn ebpf(&mut self) -> Result<&mut Ebpf, DataPlaneError> {
        Ok(&mut self.loaded()?.ebpf)
    }

    fn loaded(&mut self) -> Result<&mut Loaded, DataPlaneError> {
        if let Self::Away(_) = self
            && let Self::Away(thread) = std::mem::replace(self, Self::Nowhere)
        {
            *self = Self::Here(thread.join().unwrap_or_else(|panic| resume_unwind(panic)));
        }
        match self {
            Self::Here(loaded) => match loaded.failed.take() {
                Some(error) => Err(error),
                None => Ok(loaded),
            },
            Self::Away(_) | Self::Nowhere => unreachable!("the thread has given it back"),
        }
    }
}

impl Loaded {
    /// On as many processors as there are, for verifying them is most of what a start takes; and on no more threads: others,
    /// who write the tables meanwhile, want their share.
    fn load(&mut self, names: &[&'static str]) -> Result<(), DataPlaneError> {
        let Self { ebpf, programs, .. } = self;
        let names: Vec<&'static str> = names.iter().copied().filter(|name| !programs.contains(name)).collect();
        let mut wanted: Vec<(&'static str, &mut Program)> = ebpf
            .programs_mut()
            .filter_map(|(name, program)| Some((*names.iter().find(|known| **known == name)?, program)))
            .collect();
        wanted.sort_by_key(|(name, _)| names.iter().position(|known| known == name));
        let wanted = Mutex::new(wanted.into_iter());
        let next = || wanted.lock().unwrap_or_else(PoisonError::into_inner).next();
        let work = || -> Result<(), DataPlaneError> {
            while let Some((name, program)) = next() {
                load(program).map_err(|cause| refused(name, cause))?;
            }
            Ok(())
        };
        thread::scope(|scope| {
            let others = 1..thread::available_parallelism().map_or(1, NonZero::get);
            let others: Vec<_> = others.map(|_| scope.spawn(work)).collect();
            let own = work();
            let others = others.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic)));
            [own].into_iter().chain(others).collect::<Result<(), DataPlaneError>>()
        })?;
        self.programs.extend(names);
        Ok(())
    }
}

fn load(program: &mut Program) -> Result<(), ProgramError> {
    match program {
        Program::Xdp(program) => program.load(),
        Program::SchedClassifier(program) => program.load(),
        _ => Err(ProgramError::UnexpectedProgramType),
    }
}

fn refused(name: &str, cause: ProgramError) -> DataPlaneError {
    match cause {
        ProgramError::LoadError { io_error, verifier_log } => DataPlaneError::Refused {
            name: name.to_owned(),
            cause: io_error,
            log: last_lines(&verifier_log.to_string()),
        },
        cause => DataPlaneError::Program { doing: format!("load the program {name}"), cause: Box::new(cause) },
    }
}

/// The end of a verifier's log, which may have a million lines, without those that name no source.
fn last_lines(log: &str) -> String {
    const LINES: usize = 12;
    let said: Vec<&str> = log.lines().filter(|line| !matches!(line.trim(), "" | ";")).collect();
    said[said.len().saturating_sub(LINES)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_verifiers_log_the_end_is_told_without_its_empty_lines() {
        let log: String = (0..100).map(|line| format!("{line}: r0 = 0\n; \n\n")).collect();
        let told = last_lines(&format!("{log}; \nR2 min value is negative\nprocessed 3 insns\n"));
        assert!(told.starts_with("90: r0 = 0\n91: r0 = 0\n"), "{told}");
        assert!(told.ends_with("99: r0 = 0\nR2 min value is negative\nprocessed 3 insns"), "{told}");
        assert_eq!(last_lines(""), "");
    }
}
