//! What both programs do before they hold a key or a ciphertext: see to it that memory never reaches a file.

/// Forbids core dumps of this process, and on Linux reading its memory by other processes of the same user.
///
/// Call it first of all: what was mapped before is covered too, but a crash before the call is not. Programs started
/// later inherit the size limit of zero; being dumpable again is up to them. Does nothing where there is no Unix.
///
/// # Errors
/// What the operating system reports; then memory may reach a file, so a program should say so and stop.
pub fn deny_core_dumps() -> std::io::Result<()> {
    #[cfg(unix)]
    {
        use rustix::process::{Resource, Rlimit, setrlimit};
        setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    }
    #[cfg(target_os = "linux")]
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?;
    Ok(())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    #[test]
    fn the_limit_is_zero_and_the_process_is_not_dumpable() {
        use rustix::process::{DumpableBehavior, Resource, dumpable_behavior, getrlimit};
        super::deny_core_dumps().unwrap();
        let limit = getrlimit(Resource::Core);
        assert_eq!((limit.current, limit.maximum), (Some(0), Some(0)));
        assert_eq!(dumpable_behavior().unwrap(), DumpableBehavior::NotDumpable);
        // A second call finds nothing to change and no right missing.
        super::deny_core_dumps().unwrap();
    }
}
