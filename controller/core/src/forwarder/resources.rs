//! What a forwarder asks for and may have, so that the LimitRanges of its namespace take it.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{LimitRange, LimitRangeItem, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube_quantity::ParsedQuantity;

/// What it needs where nobody says otherwise. A quota may want each of them to be said.
const REQUESTS: [(&str, &str); 2] = [("cpu", "10m"), ("memory", "16Mi")];
const LIMITS: [(&str, &str); 2] = [("cpu", "100m"), ("memory", "64Mi")];

/// An amount as it is written, and what it means.
#[derive(Debug, Clone)]
struct Amount {
    text: Quantity,
    value: ParsedQuantity,
}

/// What all LimitRanges together say of one resource.
#[derive(Debug, Default)]
struct Bounds {
    least: Option<Amount>,
    most: Option<Amount>,
    /// The most that a limit may be of its request.
    ratio: Option<Amount>,
}

/// The amounts of `wanted` (small ones where it says nothing), brought within the limits of containers and of pods: what is too little
/// is raised, what is too much is cut, and what is too far apart is brought together by a larger request.
///
/// # Errors
/// An amount cannot be read, or none is taken: a sentence that names the resource.
pub fn fit(
    wanted: Option<&ResourceRequirements>,
    limits: &[&LimitRange],
) -> Result<ResourceRequirements, String> {
    let mut bounds = read_bounds(limits)?;
    let requests = read_wanted(
        wanted.and_then(|w| w.requests.as_ref()),
        &REQUESTS,
        "requests",
    )?;
    let caps = read_wanted(wanted.and_then(|w| w.limits.as_ref()), &LIMITS, "limits")?;
    let names = requests.keys().chain(caps.keys()).chain(bounds.keys());
    let names: BTreeSet<String> = names.cloned().collect();
    let mut fitted = ResourceRequirements {
        claims: wanted.and_then(|w| w.claims.clone()),
        ..ResourceRequirements::default()
    };
    for name in names {
        let bounds = bounds.remove(&name).unwrap_or_default();
        let (request, cap) = bounds.fit(
            &name,
            requests.get(&name).cloned(),
            caps.get(&name).cloned(),
        )?;
        let all = [
            (request, fitted.requests.get_or_insert_default()),
            (cap, fitted.limits.get_or_insert_default()),
        ];
        for (amount, into) in all {
            if let Some(amount) = amount {
                into.insert(name.clone(), amount.text);
            }
        }
    }
    Ok(fitted)
}

impl Bounds {
    fn fit(
        self,
        name: &str,
        request: Option<Amount>,
        cap: Option<Amount>,
    ) -> Result<(Option<Amount>, Option<Amount>), String> {
        let (least, most) = (self.least, self.most);
        if let (Some(least), Some(most)) = (&least, &most)
            && least.value > most.value
        {
            return Err(format!(
                "the namespace's LimitRanges take no pod: of {name} at least {} and at most {}. Remedy: mend them",
                least.text.0, most.text.0
            ));
        }
        // What has a bound must be said.
        let mut cap = cap.or_else(|| most.clone());
        let mut request = request.or_else(|| least.clone());
        if let Some(most) = &most {
            cap = cap.map(|cap| smaller(cap, most));
            request = request.map(|request| smaller(request, most));
        }
        if let Some(least) = &least {
            cap = cap.map(|cap| larger(cap, least));
            request = request.map(|request| larger(request, least));
        }
        if let (Some(ratio), Some(cap)) = (&self.ratio, &cap) {
            let needed = divide(name, cap, ratio)?;
            request =
                Some(request.map_or_else(|| needed.clone(), |request| larger(request, &needed)));
        }
        if let (Some(request), Some(of)) = (&request, &mut cap)
            && request.value > of.value
        {
            *of = request.clone();
        }
        if self.ratio.is_some() && cap.is_none() {
            cap.clone_from(&request);
        }
        Ok((request, cap))
    }
}

/// The strictest of what holds for a container or for a pod: the forwarder is a pod of one container.
fn read_bounds(limits: &[&LimitRange]) -> Result<BTreeMap<String, Bounds>, String> {
    let items = limits
        .iter()
        .flat_map(|l| l.spec.iter().flat_map(|spec| &spec.limits))
        .filter(|item| ["Container", "Pod"].contains(&item.type_.as_str()));
    let fields: [(&str, Field, Slot, Stricter); 3] = [
        ("min", |item| &item.min, |b| &mut b.least, larger),
        ("max", |item| &item.max, |b| &mut b.most, smaller),
        (
            "maxLimitRequestRatio",
            |item| &item.max_limit_request_ratio,
            |b| &mut b.ratio,
            smaller,
        ),
    ];
    let mut all: BTreeMap<String, Bounds> = BTreeMap::new();
    for item in items {
        for (field, amounts, slot, stricter) in fields {
            for (name, amount) in amounts(item).iter().flatten() {
                let amount = Amount::parse(&format!("{field} of a LimitRange"), name, amount)?;
                let bound = slot(all.entry(name.clone()).or_default());
                *bound = Some(match bound.take() {
                    Some(before) => stricter(before, &amount),
                    None => amount,
                });
            }
        }
    }
    Ok(all)
}

/// A field of a LimitRange, where it is kept, and which of two amounts holds.
type Field = fn(&LimitRangeItem) -> &Option<BTreeMap<String, Quantity>>;
type Slot = fn(&mut Bounds) -> &mut Option<Amount>;
type Stricter = fn(Amount, &Amount) -> Amount;

fn read_wanted(
    wanted: Option<&BTreeMap<String, Quantity>>,
    default: &[(&str, &str)],
    field: &str,
) -> Result<BTreeMap<String, Amount>, String> {
    let default = default
        .iter()
        .map(|(name, amount)| ((*name).to_owned(), Quantity((*amount).to_owned())));
    let mut all: BTreeMap<String, Quantity> = default.collect();
    all.extend(wanted.cloned().unwrap_or_default());
    all.into_iter()
        .map(|(name, amount)| {
            let amount = Amount::parse(&format!("resources.{field}"), &name, &amount)?;
            Ok((name, amount))
        })
        .collect()
}

/// So much of `cap` that it is no more than `ratio` times it, in whole units.
fn divide(name: &str, cap: &Amount, ratio: &Amount) -> Result<Amount, String> {
    let number = |amount: &Amount| amount.value.to_bytes_f64().filter(|n| *n > 0.0);
    let (Some(total), Some(ratio)) = (number(cap), number(ratio)) else {
        return Err(format!(
            "the namespace's LimitRanges take no pod: maxLimitRequestRatio {} of {name}. Remedy: mend them",
            ratio.text.0
        ));
    };
    let text = if name == "cpu" {
        format!("{:.0}m", (total * 1000.0 / ratio).ceil())
    } else {
        format!("{:.0}", (total / ratio).ceil())
    };
    Amount::parse("a share", name, &Quantity(text))
}

fn smaller(one: Amount, other: &Amount) -> Amount {
    if other.value < one.value {
        other.clone()
    } else {
        one
    }
}

fn larger(one: Amount, other: &Amount) -> Amount {
    if other.value > one.value {
        other.clone()
    } else {
        one
    }
}

impl Amount {
    fn parse(field: &str, name: &str, text: &Quantity) -> Result<Self, String> {
        let value = ParsedQuantity::try_from(text).map_err(|_| {
            format!(
                "{field}: {name}: {:?} is no quantity: write one such as 100m or 64Mi",
                text.0
            )
        })?;
        Ok(Self {
            text: text.clone(),
            value,
        })
    }
}
