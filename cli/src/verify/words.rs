//! Checks in words.

use diffulex_runtime::verify::Check;
use diffulex_runtime::verify::departure::{Candidate, Departure};

/// One line for people; with `explain` a departure has two more, one for each candidate.
pub fn describe(check: &Check, explain: bool) -> String {
    let mark = if check.passed() { "ok    " } else { "FAILED" };
    match check {
        Check::Structure { what, problem, .. } => match problem {
            None => format!("{mark} structure   {what}"),
            Some(problem) => format!("{mark} structure   {what}: {problem}"),
        },
        Check::Logits { case, attention, rows, max_error, limit, hidden, hidden_limit, not_compared, .. } => {
            let worst = hidden.iter().max_by(|a, b| a.1.total_cmp(b.1));
            let hidden = worst.map_or(String::new(), |(name, error)| {
                format!(", {} hidden states within {error:.1e} of {hidden_limit:.0e} (worst {name})", hidden.len())
            });
            let missing = match not_compared.len() {
                0 => String::new(),
                n => format!(", {n} hidden states not compared"),
            };
            format!(
                "{mark} logits      {case}: {rows} rows ({attention}), largest error {max_error:.1e} of {limit:.0e}\
                 {hidden}{missing}"
            )
        }
        Check::Trajectory { name, passes, tokens, departure, .. } => match departure {
            None => format!("{mark} trajectory  {name}: {passes} passes, {tokens} tokens, all equal"),
            Some(departure) => format!("{mark} trajectory  {name}: {}", departs(departure, explain)),
        },
        Check::Conversation { case, tokens, difference, departure, .. } => {
            let what = match (difference, departure) {
                (Some(difference), _) => difference.clone(),
                (None, Some(departure)) => departs(departure, explain),
                (None, None) => format!("{tokens} tokens and their text, all equal"),
            };
            format!("{mark} conversation {case}: {what}")
        }
        Check::Weights { compared, of, difference, .. } => match difference {
            None => format!("{mark} weights     {compared} of {of} weights compared, all equal"),
            Some(difference) => format!("{mark} weights     {difference}"),
        },
        Check::Numbers(n) => {
            let departs = n.departs.map_or(String::new(), |layer| format!(", departs in layer {layer}"));
            format!(
                "{mark} numbers     {}: {} rows, error {:.1e} of {:.1e}, KL {:.1e}, top-1 {:.0}%{departs}",
                n.case,
                n.rows,
                n.max_error,
                n.limits.max_error * n.max_logit,
                n.kl,
                n.top1 * 100.0
            )
        }
        Check::Reply { case, tokens, equal, departure, .. } => {
            let why = departure.as_ref().map_or(String::new(), |d| format!("; {}", departs(d, explain)));
            format!("{mark} reply       {case}: {equal} of {tokens} tokens equal{why}")
        }
    }
}

/// Where a run departs, and between which candidates.
fn departs(departure: &Departure, explain: bool) -> String {
    let mut text = departure.to_string();
    if explain {
        let lines = [("recorded", &departure.recorded), ("here", &departure.found)];
        for (whose, candidate) in lines {
            let told = candidate.as_ref().map_or("nothing".to_string(), Candidate::to_string);
            text.push_str(&format!("\n           {whose:>9}: {told}"));
        }
    }
    text
}
