//! A suite of stories that share one world: shown as ignored unless it is asked for, played one after
//! the other, and cleaned up after, whatever became of them.

use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use libtest_mimic::{Arguments, Completion, Trial};
use tokio::runtime::Runtime;

use crate::failure::Failure;

/// Why the tests do not run unless they are asked for.
const ON_REQUEST: &str = "builds and runs etcd, kube-apiserver and Cluster API, which takes minutes \
                          the first time; run with --include-ignored";

/// One story: what is played on the runtime, in the world.
pub type Story<W> = fn(&Runtime, &mut W) -> Result<(), Failure>;

/// Plays the stories, in this order, in a world that the first of them makes. Each goes on where the one
/// before it stopped, so after one that failed the others are not played: they would wait for what
/// cannot come. What the world started
/// ends when it is dropped: after the last story, also if one panicked.
///
/// # Panics
///
/// Without a runtime.
pub fn play<W: Send + 'static>(
    start: fn(&Runtime) -> Result<W, Failure>,
    stories: &[(&str, Story<W>)],
) -> ExitCode {
    let mut arguments = Arguments::from_args();
    // One management cluster serves all, and one story at a time is busy enough.
    arguments.test_threads = Some(1);
    let asked_for = arguments.include_ignored || arguments.ignored;
    let runtime = Arc::new(Runtime::new().expect("threads and a poller are there"));
    let world: Arc<Mutex<Option<Result<W, Failure>>>> = Arc::default();
    let stopped: Arc<Mutex<Option<String>>> = Arc::default();
    let trials = stories.iter().map(|(name, story)| {
        let (story, runtime, world) = (*story, Arc::clone(&runtime), Arc::clone(&world));
        let (own, stopped) = ((*name).to_owned(), Arc::clone(&stopped));
        let runner = move || {
            if !asked_for {
                return Ok(Completion::ignored_with(ON_REQUEST));
            }
            // Taken back below, unless the story fails or panics.
            let mut stopped = stopped.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(earlier) = &*stopped {
                let why = format!("{earlier} failed, and this goes on from there");
                return Ok(Completion::ignored_with(why));
            }
            *stopped = Some(own.clone());
            // A story that panicked leaves a world that others can still look at.
            let mut world = world.lock().unwrap_or_else(PoisonError::into_inner);
            match world.get_or_insert_with(|| start(&runtime)) {
                Ok(world) => story(&runtime, world)?,
                Err(failure) => return Err(failure.to_string().into()),
            }
            *stopped = None;
            Ok(Completion::Completed)
        };
        // Without the flag `--ignored` would filter them out.
        Trial::ignorable_test(*name, runner).with_ignored_flag(asked_for)
    });
    let conclusion = libtest_mimic::run(&arguments, trials.collect());
    let _inside = runtime.enter();
    drop(world.lock().unwrap_or_else(PoisonError::into_inner).take());
    conclusion.exit_code()
}
