//! `start --timeline`: spans as a page that a browser shows by itself, and as lines.

use crate::cluster::timeline::{Span, sums};
use std::fmt::Write as _;

const STYLE: &str = "body{font:14px system-ui,sans-serif;margin:2em;max-width:110em;color:#222;background:#fff}\
h1{font-size:1.3em}table{border-collapse:collapse;margin:1em 0}td,th{padding:.2em .9em;text-align:right}\
td:first-child,th:first-child{text-align:left}tr:nth-child(even){background:#f4f4f4}\
details{margin:.3em 0}summary{cursor:pointer;list-style:none}summary .name::before{content:\"\\25b8\\00a0\"}\
details[open] summary .name::before{content:\"\\25be\\00a0\"}.row{display:flex;align-items:center;height:20px}\
.name{flex:0 0 17em;overflow:hidden;text-overflow:ellipsis;white-space:nowrap;padding-right:.7em;text-align:right}\
.lane{position:relative;flex:1;height:16px;background:repeating-linear-gradient(90deg,#ddd 0 1px,#f7f7f7 1px var(--tick))}\
.bar{position:absolute;top:0;height:16px;min-width:1px;border-radius:2px;overflow:hidden;white-space:nowrap;font-size:11px;line-height:16px;\
color:#fff;text-indent:3px}.unit .bar{height:10px;top:3px}";

/// One colour for each phase, and one for units.
const COLOURS: [(&str, &str); 8] = [
    ("images", "#7f7f7f"),
    ("network", "#17876d"),
    ("files", "#8c6d31"),
    ("create", "#4060a8"),
    ("start", "#7b4fa3"),
    ("boot", "#c0592b"),
    ("Alive", "#2b8a3e"),
    ("", "#d98f4e"),
];

fn colour(span: &Span) -> &'static str {
    let known = COLOURS.iter().find(|(name, _)| *name == span.what && !span.unit);
    known.or(COLOURS.last()).map_or("", |(_, colour)| colour)
}

fn escaped(text: &str) -> String {
    let mut safe = String::new();
    for c in text.chars() {
        match c {
            '&' => safe += "&amp;",
            '<' => safe += "&lt;",
            '>' => safe += "&gt;",
            '"' => safe += "&quot;",
            c => safe.push(c),
        }
    }
    safe
}

fn seconds(us: u64) -> String {
    format!("{:.3}", us as f64 / 1e6)
}

/// One of the page's rows.
fn row(name: &str, class: &str, spans: &[&Span], from: u64, all: u64) -> String {
    let bar = |span: &&Span| {
        let share = |us: u64| us as f64 * 100.0 / all as f64;
        let (begin, took) = (span.begin.saturating_sub(from), span.end - span.begin);
        let title = format!("{}: {} s, from {} s on", span.what, seconds(took), seconds(begin));
        format!(
            "<span class=\"bar\" style=\"left:{:.2}%;width:{:.2}%;background:{}\" title=\"{}\">{}</span>",
            share(begin),
            share(took),
            colour(span),
            escaped(&title),
            if share(took) > 6.0 && !span.unit { escaped(&span.what) } else { String::new() }
        )
    };
    let bars: String = spans.iter().map(bar).collect();
    format!(
        "<div class=\"row {class}\"><span class=\"name\">{}</span><span class=\"lane\">{bars}</span></div>\n",
        escaped(name)
    )
}

/// A whole page.
pub(super) fn page(spans: &[Span]) -> String {
    let from = spans.iter().filter(|span| !span.unit).map(|span| span.begin).min().unwrap_or_default();
    let to = spans.iter().map(|span| span.end).max().unwrap_or_default();
    let all = (to - from).max(1);
    let mut body = String::new();
    let ours: Vec<&Span> = spans.iter().filter(|span| span.host.is_none()).collect();
    body += &row("the cluster", "", &ours, from, all);
    let mut hosts: Vec<&str> = Vec::new();
    for host in spans.iter().filter_map(|span| span.host.as_deref()) {
        if !hosts.contains(&host) {
            hosts.push(host);
        }
    }
    for host in hosts {
        let (mut units, phases): (Vec<&Span>, Vec<&Span>) =
            spans.iter().filter(|span| span.host.as_deref() == Some(host)).partition(|span| span.unit);
        let phases = row(host, "", &phases, from, all);
        // Those that a host had before, or has started since, are not of this start.
        units.retain(|span| span.begin >= from);
        units.sort_by_key(|span| span.begin);
        let units: String = units.iter().map(|unit| row(&unit.what, "unit", &[unit], from, all)).collect();
        if units.is_empty() {
            body += &phases;
        } else {
            let _ = write!(
                body,
                "<details{}><summary>{phases}</summary>\n{units}</details>\n",
                if host == "server" { " open" } else { "" }
            );
        }
    }
    let mut table = String::from("<tr><th>phase<th>hosts<th>sum, s<th>from first to last, s</tr>\n");
    for (name, hosts, sum, wall) in sums(spans) {
        let _ = writeln!(table, "<tr><td>{}<td>{hosts}<td>{}<td>{}</tr>", escaped(name), seconds(sum), seconds(wall));
    }
    // A line each tenth of a second, or each second where there are many.
    let tick = if all < 5_000_000 { 100_000.0 } else { 1_000_000.0 } * 100.0 / all as f64;
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><meta charset=\"utf-8\"><title>oardocker start</title>\n<style>{STYLE}</style>\n\
         <h1>oardocker start: {} s</h1>\n<p>Lines are {} s apart; point at a bar for its times, open a host for what its systemd started.</p>\n\
         <div style=\"--tick:{tick:.3}%\">\n{body}</div>\n<table>\n{table}</table>\n</html>\n",
        seconds(all),
        if all < 5_000_000 { "0.1" } else { "1" },
    )
}

/// The sums, a line each.
pub(super) fn lines(spans: &[Span]) -> String {
    let line = |(name, hosts, sum, wall): (&str, usize, u64, u64)| {
        let of = if hosts > 1 { format!(" ({hosts} hosts, {} s together)", seconds(sum)) } else { String::new() };
        format!("{name:>8} {} s{of}", seconds(wall))
    };
    sums(spans).into_iter().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_all_of_it_and_nothing_that_a_host_could_run_in_it() {
        let span = |host: Option<&str>, what: &str, unit, begin, end| Span {
            host: host.map(Into::into),
            what: what.into(),
            unit,
            begin,
            end,
        };
        let spans = [
            span(None, "network", false, 1_000_000, 1_250_000),
            span(Some("server"), "boot", false, 1_250_000, 3_000_000),
            span(Some("server"), "<script>alert(1)</script>.service", true, 1_500_000, 1_700_000),
            // Before all of it.
            span(Some("server"), "old.service", true, 5, 9),
        ];
        let page = page(&spans);
        assert!(page.contains("<h1>oardocker start: 2.000 s</h1>"), "{page}");
        assert!(page.contains("left:12.50%;width:87.50%"), "{page}");
        assert!(
            page.contains("&lt;script&gt;") && !page.contains("<script") && !page.contains("old.service"),
            "{page}"
        );
        assert!(!page.contains("http"), "it needs nothing from elsewhere");
        assert_eq!(lines(&spans), " network 0.250 s\n    boot 1.750 s");
    }
}
