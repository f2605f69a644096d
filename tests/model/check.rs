//! Looks at every state of a model, or for the shortest schedule that breaks it.
//!
//! Owns how models are run and what a run is expected to say. Does not own what is modelled.

use std::{fmt::Debug, hash::Hash, time::Instant};

use stateright::{Checker, HasDiscoveries, Model};

/// What a run over all states saw.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Explored {
    /// States that differ.
    pub(crate) states: usize,
    /// Steps of the longest schedule among the shortest ones to each state.
    pub(crate) depth: usize,
}

/// Looks at every state: what must always hold holds in all of them, what must be possible is.
///
/// # Panics
/// With the shortest schedule that breaks a property, or with the property that nothing shows.
pub(crate) fn holds<M>(name: &str, model: M) -> Explored
where
    M: Model + Send + Sync + 'static,
    M::State: Clone + Debug + Hash + PartialEq + Send + Sync + 'static,
    M::Action: Clone + Debug + PartialEq + Send + Sync + 'static,
{
    let begun = Instant::now();
    let checker = search(model, HasDiscoveries::AnyFailures, None);
    for property in checker.model().properties() {
        let found = checker.discovery(property.name);
        if property.expectation.discovery_is_failure() {
            if let Some(path) = found {
                panic!("{name}: {}: {:?}", property.name, path.into_vec());
            }
        } else {
            assert!(found.is_some(), "{name}: never seen: {}", property.name);
        }
    }
    let explored = Explored {
        states: checker.unique_state_count(),
        depth: checker.max_depth(),
    };
    report(&format!(
        "{name}: {} states, {} steps deep, {:.1?}",
        explored.states,
        explored.depth,
        begun.elapsed()
    ));
    explored
}

/// Looks for a schedule that breaks `property`, among all of one step, then of two, and so on, and returns its steps.
///
/// # Panics
/// When no schedule does.
pub(crate) fn breaks<M>(name: &str, model: M, property: &'static str) -> Vec<M::Action>
where
    M: Model + Clone + Send + Sync + 'static,
    M::State: Clone + Debug + Hash + PartialEq + Send + Sync + 'static,
    M::Action: Clone + Debug + PartialEq + Send + Sync + 'static,
{
    let begun = Instant::now();
    let mut seen = 0;
    // What the checker names is the last that it found before it stopped, so it may not look further than the shortest.
    let path = (1..).find_map(|depth| {
        let checker = search(
            model.clone(),
            HasDiscoveries::AnyOf([property].into()),
            Some(depth + 1),
        );
        let states = checker.unique_state_count();
        let path = checker.discovery(property);
        assert!(
            path.is_some() || states > seen,
            "{name}: no schedule breaks it in {states} states: {property}"
        );
        seen = states;
        path
    });
    let path = path.expect("some depth has it, or the states are at an end");
    let steps = path.into_actions();
    report(&format!(
        "{name}: broken after {} steps ({property}), {:.1?}: {steps:?}",
        steps.len(),
        begun.elapsed()
    ));
    steps
}

/// Breadth first on one thread, so that every run says the same; to a depth, where one is given, that counts the first state too.
fn search<M>(model: M, until: HasDiscoveries, depth: Option<usize>) -> impl Checker<M>
where
    M: Model + Send + Sync + 'static,
    M::State: Clone + Debug + Hash + PartialEq + Send + Sync + 'static,
    M::Action: Clone + Debug + PartialEq + Send + Sync + 'static,
{
    let mut checker = model.checker().finish_when(until);
    if let Some(depth) = depth {
        checker = checker.target_max_depth(depth);
    }
    checker.spawn_bfs().join()
}

fn report(line: &str) {
    println!("{line}");
}
