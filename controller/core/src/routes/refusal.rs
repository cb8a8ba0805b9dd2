//! What admission has refused, and the shape in which a route is tried next.
//!
//! An Ingress that is refused is tried with the other path types; if none is taken, its Certificates are parted in halves, and
//! these again, until what is refused stands alone. Nothing of an API server's words is read for it. A path type that was
//! taken is used in the namespace and class from then on.

use std::collections::{BTreeMap, BTreeSet};

use evercert_api::children::stable_hash;

use super::cover::RouteClass;
use crate::key::ObjectKey;

/// The most cells of one group that are parted: a refusal that is about none of them ends there.
const MOST_SPLITS: usize = 16;

/// How the path of a rule is compared (`pathType`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum PathType {
    /// The path itself.
    Exact,
    /// The path, or one below it.
    Prefix,
    /// As the controller likes.
    ImplementationSpecific,
}

/// Routes that could be in one Ingress.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Group {
    pub(super) namespace: String,
    pub(super) class: RouteClass,
    /// What the issuer adds.
    pub(super) annotations: BTreeMap<String, String>,
    /// Whether they lead to the namespace's forwarder.
    pub(super) is_forwarded: bool,
}

/// A part of a group's Certificates: those whose hash begins with these bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Cell {
    depth: u32,
    bits: u64,
}

/// What one route Ingress holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub(super) group: Group,
    pub(super) cell: Cell,
    pub(super) path_type: PathType,
    /// The path type that its controller's routes have at first.
    pub(super) first: PathType,
    /// How many Certificates its cell has.
    pub(super) certificates: usize,
}

/// What comes after a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The routes have another shape now, which is to be tried at once.
    Again,
    /// There is nothing else to try: the same again, later.
    Wait,
}

/// What was refused since the start.
#[derive(Debug, Default)]
pub struct Refusals {
    /// The path type that was taken.
    taken: BTreeMap<(String, RouteClass), PathType>,
    /// The path type that is tried, or was taken here alone.
    tried: BTreeMap<(Group, Cell), PathType>,
    /// Cells whose Certificates are parted.
    parted: BTreeSet<(Group, Cell)>,
    /// Cells of which every shape was refused.
    stuck: BTreeSet<(Group, Cell)>,
}

impl PathType {
    const ALL: [Self; 3] = [Self::Exact, Self::Prefix, Self::ImplementationSpecific];

    /// As an Ingress has it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Exact => "Exact",
            Self::Prefix => "Prefix",
            Self::ImplementationSpecific => "ImplementationSpecific",
        }
    }

    /// The one to try after `self`, where `first` was the first; `None` after the last.
    fn after(self, first: Self) -> Option<Self> {
        let mut order = vec![first];
        order.extend(Self::ALL.into_iter().filter(|t| *t != first));
        let at = order.iter().position(|t| *t == self)?;
        order.get(at + 1).copied()
    }
}

impl Cell {
    /// All of a group.
    pub(super) const ALL: Self = Self { depth: 0, bits: 0 };

    /// The half of it that `key` is in.
    fn half(self, key: &ObjectKey) -> Self {
        let depth = self.depth + 1;
        let hash = stable_hash(&[&key.namespace, &key.name]);
        Self {
            depth,
            bits: hash >> (u64::BITS - depth.min(u64::BITS)),
        }
    }

    /// What tells it from others in a name; empty for all of a group.
    pub(super) fn text(self) -> String {
        match self.depth {
            0 => String::new(),
            depth => format!("{depth}.{:x}", self.bits),
        }
    }
}

impl Refusals {
    /// The cell that `key` is in.
    pub(super) fn cell(&self, group: &Group, key: &ObjectKey) -> Cell {
        let mut at = (group.clone(), Cell::ALL);
        while at.1.depth < u64::BITS && self.parted.contains(&at) {
            at.1 = at.1.half(key);
        }
        at.1
    }

    /// The path type for a cell, where `first` is the controller's.
    pub(super) fn path_type(&self, group: &Group, cell: Cell, first: PathType) -> PathType {
        let tried = self.tried.get(&(group.clone(), cell));
        let taken = || {
            let site = (group.namespace.clone(), group.class.clone());
            self.taken.get(&site)
        };
        tried.or_else(taken).copied().unwrap_or(first)
    }

    /// An Ingress was refused by admission.
    pub fn refuse(&mut self, place: &Place) -> Verdict {
        let at = (place.group.clone(), place.cell);
        let site = (place.group.namespace.clone(), place.group.class.clone());
        // What was taken from others is not what is wrong with several.
        let is_proven = self.taken.get(&site) == Some(&place.path_type) && place.certificates > 1;
        if let Some(next) = place.path_type.after(place.first).filter(|_| !is_proven) {
            self.tried.insert(at.clone(), next);
            return if self.stuck.contains(&at) {
                Verdict::Wait
            } else {
                Verdict::Again
            };
        }
        self.tried.remove(&at);
        let parted = self.parted.iter().filter(|(g, _)| *g == place.group);
        if place.certificates > 1 && parted.count() < MOST_SPLITS {
            self.parted.insert(at);
            return Verdict::Again;
        }
        self.stuck.insert(at);
        Verdict::Wait
    }

    /// An Ingress was taken by admission.
    pub fn accept(&mut self, place: &Place) {
        let at = (place.group.clone(), place.cell);
        self.stuck.remove(&at);
        let site = (place.group.namespace.clone(), place.group.class.clone());
        let taken = *self.taken.entry(site).or_insert(place.path_type);
        if taken == place.path_type {
            self.tried.remove(&at);
        }
    }

    /// Forgets what was refused where nothing is open any more; the path types that were taken are kept.
    pub fn retain(&mut self, is_open: impl Fn(&str) -> bool) {
        let keep = |group: &Group| is_open(&group.namespace);
        self.tried.retain(|(group, _), _| keep(group));
        self.parted.retain(|(group, _)| keep(group));
        self.stuck.retain(|(group, _)| keep(group));
    }
}
