//! Breadth-first search of every world that can be, and what can be asked of the graph afterwards.

use std::collections::HashMap;
use std::fmt;

use exuvia::restart::state::Rules;

use super::step::{Budget, Step};
use super::world::{Machine, World};

/// A property that does not hold, and the shortest way to where it does not.
#[derive(Debug)]
pub(crate) struct Violation {
    pub(crate) property: &'static str,
    pub(crate) trace: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "violated: {}\n{}", self.property, self.trace)
    }
}

/// Every world that can be.
pub(crate) struct Graph {
    worlds: Vec<World>,
    /// How each was reached first.
    origins: Vec<Option<(usize, Step)>>,
    /// For each, where the steps lead that come without anyone's doing.
    due: Vec<Vec<usize>>,
}

impl Graph {
    /// Explores everything; stops at the first world that `always` objects to.
    pub(crate) fn explore(
        machine: Machine,
        rules: Rules,
        budget: Budget,
        always: fn(&World) -> Result<(), &'static str>,
    ) -> Result<Graph, Violation> {
        let first = World::new(machine, rules, budget)
            .map_err(|what| Violation { property: "the protocol is kept", trace: what })?;
        let mut known = HashMap::from([(first.clone(), 0)]);
        let mut graph = Graph { worlds: vec![first], origins: vec![None], due: Vec::new() };
        let mut at = 0;
        while at < graph.worlds.len() {
            let mut due = Vec::new();
            for step in graph.worlds[at].steps() {
                let next = graph.worlds[at].after(machine, step).map_err(|what| {
                    let trace = format!("{}    then {step:?}: {what}\n", graph.trace(at));
                    Violation { property: "the protocol is kept", trace }
                })?;
                let Some(next) = next else { continue };
                let found = known.get(&next).copied().unwrap_or_else(|| {
                    let new = graph.worlds.len();
                    graph.worlds.push(next.clone());
                    graph.origins.push(Some((at, step)));
                    known.insert(next, new);
                    new
                });
                if step.is_due() {
                    due.push(found);
                }
            }
            graph.due.push(due);
            if let Err(property) = always(&graph.worlds[at]) {
                return Err(graph.violation(property, at));
            }
            at += 1;
        }
        Ok(graph)
    }

    pub(crate) fn len(&self) -> usize {
        self.worlds.len()
    }

    /// Every way on comes to a `good` world, if nobody does anything: there is neither an end nor a circle
    /// before one.
    pub(crate) fn inevitably(
        &self,
        property: &'static str,
        good: fn(&World) -> bool,
    ) -> Result<(), Violation> {
        let sure = self.spread(good, |ways, sure| ways > 0 && sure == ways);
        self.all(property, &sure)
    }

    /// Some way on comes to a `good` world, if nobody does anything.
    pub(crate) fn possibly(&self, property: &'static str, good: fn(&World) -> bool) -> Result<(), Violation> {
        let sure = self.spread(good, |_, sure| sure > 0);
        self.all(property, &sure)
    }

    /// Where nothing more happens by itself, it is `good`.
    pub(crate) fn finally(&self, property: &'static str, good: fn(&World) -> bool) -> Result<(), Violation> {
        let fine: Vec<bool> =
            self.worlds.iter().zip(&self.due).map(|(world, due)| !due.is_empty() || good(world)).collect();
        self.all(property, &fine)
    }

    /// The worlds that are good, and those of whose ways on so many lead to such that it is `enough`.
    fn spread(&self, good: fn(&World) -> bool, enough: fn(usize, usize) -> bool) -> Vec<bool> {
        let mut back = vec![Vec::new(); self.len()];
        for (from, due) in self.due.iter().enumerate() {
            due.iter().for_each(|to| back[*to].push(from));
        }
        let mut sure: Vec<bool> = self.worlds.iter().map(good).collect();
        let mut sure_ways = vec![0; self.len()];
        let mut news: Vec<usize> = (0..self.len()).filter(|at| sure[*at]).collect();
        while let Some(to) = news.pop() {
            for &from in &back[to] {
                sure_ways[from] += 1;
                if !sure[from] && enough(self.due[from].len(), sure_ways[from]) {
                    sure[from] = true;
                    news.push(from);
                }
            }
        }
        sure
    }

    fn all(&self, property: &'static str, fine: &[bool]) -> Result<(), Violation> {
        match fine.iter().position(|fine| !fine) {
            Some(at) => Err(self.violation(property, at)),
            None => Ok(()),
        }
    }

    fn violation(&self, property: &'static str, at: usize) -> Violation {
        Violation { property, trace: self.trace(at) }
    }

    /// The steps that lead to a world, and what each came to.
    fn trace(&self, at: usize) -> String {
        let mut lines = Vec::new();
        let mut at = at;
        while let Some((from, step)) = self.origins[at] {
            lines.push(format!("    {:<28} {}\n", format!("{step:?}"), self.worlds[at]));
            at = from;
        }
        lines.push(format!("    {:<28} {}\n", "", self.worlds[at]));
        lines.into_iter().rev().collect()
    }
}
