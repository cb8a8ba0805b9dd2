//! All groups from outside: this process holds their worlds, and each group is this program started again inside of its own.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, PipeReader, Write};
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use evercert_cluster::{Level, Priority, World};
use evercert_e2e::rights::{self, Usage};
use libtest_mimic::Trial;

use crate::inside::Outcome;
use crate::{Asked, GROUP, Group, SHARED};

/// Worlds that are up at the same time: their stories wait most of the time, but each brings a control plane of its own up. More of
/// them fill two processors, and then what has to happen within two seconds does not.
const AT_ONCE: usize = 3;

/// What fails when the roles of the chart and what was asked for differ.
const RIGHTS: &str = "the_rights_of_the_chart_are_those_that_the_stories_used";

/// What became of a group.
struct Ended {
    name: String,
    passed: usize,
    failed: Vec<String>,
    ignored: Vec<String>,
    costs: String,
    rights: Usage,
    took: Duration,
    log: PathBuf,
}

/// Tells every story that is asked for, and says what became of them in the words of `cargo test`.
pub(crate) fn tell(asked: &Asked, groups: Vec<Group>) -> Result<ExitCode> {
    let args = &asked.args;
    if args.list {
        let names = groups.iter().flat_map(Group::tales);
        let trials = names.map(|tale| Trial::test(tale.name().to_owned(), || Ok(())));
        return Ok(libtest_mimic::run(args, trials.collect()).exit_code());
    }
    asked.check(&groups)?;
    let all: usize = groups.iter().map(|group| group.tales().count()).sum();
    let chosen = groups.into_iter().map(|group| group.choose(asked));
    let (alone, together): (Vec<_>, Vec<_>) = chosen
        .filter(|group| group.tales().next().is_some())
        .partition(|group| group.alone);
    let left_out = all
        - [&alone, &together]
            .into_iter()
            .flatten()
            .map(|group| group.tales().count())
            .sum::<usize>();
    let hall = Hall {
        logs: logs()?,
        live: args.nocapture || alone.len() + together.len() == 1,
        started: Instant::now(),
    };
    let at_once = args.test_threads.unwrap_or(AT_ONCE).clamp(1, AT_ONCE);
    let mut ended = hall.play(at_once, together);
    ended.extend(hall.play(1, alone));
    hall.sum_up(&ended, left_out)
}

struct Hall {
    logs: PathBuf,
    /// Whether the output of a group is shown while it comes.
    live: bool,
    started: Instant,
}

impl Hall {
    fn play(&self, at_once: usize, groups: Vec<Group>) -> Vec<Ended> {
        // Those of a low priority come last, where the fewest are beside them.
        let (mut usual, behind): (VecDeque<_>, VecDeque<_>) = groups
            .into_iter()
            .partition(|group| group.priority != Priority::Low);
        usual.extend(behind);
        let waiting = Mutex::new(usual);
        let next = || lock(&waiting).pop_front();
        let ended = Mutex::new(Vec::new());
        thread::scope(|scope| {
            for _ in 0..at_once {
                scope.spawn(|| {
                    while let Some(group) = next() {
                        let end = self.play_one(&group);
                        lock(&ended).push(end);
                    }
                });
            }
        });
        ended.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// Never fails: what goes wrong is a failure of the group.
    fn play_one(&self, group: &Group) -> Ended {
        let began = Instant::now();
        let log = self.logs.join(format!("{}.log", group.name));
        let stories = group.tales().count();
        println!(
            "{:>6.1} s  {} begins: {stories} stories",
            self.started.elapsed().as_secs_f64(),
            group.name
        );
        let mut outcome = Outcome::default();
        if let Err(error) = self.in_its_world(group, &log, &mut outcome) {
            outcome.failed.push(format!("the group {}", group.name));
            let error = format!("the group {}: {error:#}\n", group.name);
            print!("{error}");
            let file = File::options().create(true).append(true).open(&log);
            let _ = file.and_then(|mut file| file.write_all(error.as_bytes()));
        }
        let ended = Ended {
            name: group.name.clone(),
            passed: outcome.passed,
            failed: outcome.failed,
            ignored: outcome.ignored,
            costs: outcome.costs,
            rights: outcome.rights,
            took: began.elapsed(),
            log,
        };
        self.show_end(&ended);
        ended
    }

    fn in_its_world(&self, group: &Group, log: &Path, outcome: &mut Outcome) -> Result<()> {
        let name = &group.name;
        let file = File::create(log).with_context(|| format!("creating {}", log.display()))?;
        let level = group.level.map_or_else(Level::here, Ok)?;
        let world = World::up_as(&format!("stories-{name}"), false, level, group.priority)?;
        let (output, writer) = io::pipe().context("making a pipe")?;
        let program = std::env::current_exe().context("finding the current program")?;
        let mut command = world.command(program);
        command
            .args(std::env::args_os().skip(1))
            .env(GROUP, name)
            .envs([group.priority.variable()])
            .stdin(Stdio::null())
            .stdout(writer.try_clone().context("sharing a pipe")?)
            .stderr(writer);
        let mut child = command.spawn().context("starting this program inside")?;
        // Its own ends of the pipe, else there would be no end.
        drop(command);
        let label = self.live.then(|| name.clone());
        let reader = thread::spawn(move || keep(output, file, label.as_deref()));
        let status = child.wait().context("waiting for the group's end")?;
        *outcome = Outcome::of(&world);
        // Whatever else holds the pipe ends with the world.
        world.down()?;
        if reader.join().is_err() {
            bail!("reading its output failed");
        }
        if !status.success() {
            bail!("its process ended with {status}");
        }
        Ok(())
    }

    /// One that failed is shown after all others, where a person looks first.
    fn show_end(&self, ended: &Ended) {
        let mut out = io::stdout().lock();
        let failed = match ended.failed.as_slice() {
            [] => String::new(),
            names => format!(", {} FAILED: {}", names.len(), names.join(", ")),
        };
        let _ = writeln!(
            out,
            "{:>6.1} s  {} ends after {:.1} s: {} passed{failed}",
            self.started.elapsed().as_secs_f64(),
            ended.name,
            ended.took.as_secs_f64(),
            ended.passed
        );
        if !self.live && ended.failed.is_empty() {
            show(&mut out, &ended.log);
        }
    }

    fn sum_up(&self, ended: &[Ended], left_out: usize) -> Result<ExitCode> {
        let mut out = io::stdout().lock();
        let failing: Vec<&Ended> = ended.iter().filter(|end| !end.failed.is_empty()).collect();
        let is_whole = left_out == 0 && ended.iter().all(|end| end.ignored.is_empty());
        let (table, wrong_rights) = look_at_rights(ended, is_whole)?;
        for end in &failing {
            if !self.live {
                writeln!(
                    out,
                    "\n{}, whose output is in {}:",
                    end.name,
                    end.log.display()
                )?;
                show(&mut out, &end.log);
            }
        }
        let mut failures: Vec<&str> = failing
            .iter()
            .flat_map(|end| &end.failed)
            .map(String::as_str)
            .collect();
        if !wrong_rights.is_empty() {
            writeln!(out, "\n---- {RIGHTS} ----\n{}", wrong_rights.join("\n"))?;
            failures.push(RIGHTS);
        }
        if !failures.is_empty() {
            writeln!(out, "\nfailures:")?;
            for name in &failures {
                writeln!(out, "    {name}")?;
            }
        }
        for end in ended.iter().filter(|end| end.name == SHARED) {
            write!(out, "\n{}", end.costs)?;
        }
        write!(out, "\n{table}")?;
        let ignored: Vec<&String> = ended.iter().flat_map(|end| &end.ignored).collect();
        if !ignored.is_empty() {
            writeln!(out, "\nleft out, since they need a node:")?;
            for name in &ignored {
                writeln!(out, "    {name}")?;
            }
        }
        let passed: usize = ended.iter().map(|end| end.passed).sum();
        let failed = failures.len();
        writeln!(
            out,
            "\ntest result: {}. {passed} passed; {failed} failed; {} ignored; 0 measured; {left_out} filtered out; finished in {:.2}s\n",
            if failed == 0 { "ok" } else { "FAILED" },
            ignored.len(),
            self.started.elapsed().as_secs_f64()
        )?;
        Ok(if failed == 0 {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }
}

/// What the roles grant beside what all groups used, as a table where it is the whole; and what is wrong with it. A right that is never
/// used is wrong where every story was told.
fn look_at_rights(ended: &[Ended], is_whole: bool) -> Result<(String, Vec<String>)> {
    let mut usage = Usage::default();
    for end in ended {
        usage.add(&end.rights);
    }
    let granted = rights::granted()?;
    let missing = usage.missing(&granted).into_iter();
    let mut wrong: Vec<String> = missing
        .map(|right| {
            let example = usage.example(&right);
            format!("asked for, and not granted by the chart: {right} ({example})")
        })
        .collect();
    if !is_whole {
        return Ok((String::new(), wrong));
    }
    let idle = usage.idle(&granted).into_iter();
    wrong.extend(idle.map(|right| format!("granted by the chart, and never used: {right}")));
    Ok((usage.table(&granted), wrong))
}

/// Copies a group's output to its file, and to the standard output too if it has a name there.
fn keep(output: PipeReader, mut file: File, label: Option<&str>) {
    let mut lines = BufReader::new(output);
    let mut line = Vec::new();
    while lines
        .read_until(b'\n', &mut line)
        .is_ok_and(|read| read > 0)
    {
        // The disk may be full; the outcome does not depend on it.
        let _ = file.write_all(&line);
        if let Some(name) = label {
            print!("    {name}: {}", String::from_utf8_lossy(&line));
        }
        line.clear();
    }
}

/// Set off from the left: the sum of all groups is the only one that begins a line with `test result`.
fn show(out: &mut impl Write, log: &Path) {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    for line in text.lines().filter(|line| !line.is_empty()) {
        let _ = writeln!(out, "    {line}");
    }
}

/// Where the output of the groups is kept: `EVERCERT_STORIES_LOGS`, else the target folder.
fn logs() -> Result<PathBuf> {
    let dir = std::env::var_os("EVERCERT_STORIES_LOGS").map_or_else(
        || Path::new(env!("CARGO_TARGET_TMPDIR")).join("stories"),
        PathBuf::from,
    );
    fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
    Ok(dir)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
