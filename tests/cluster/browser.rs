//! Monika and Drawgantt as a person sees them.

use super::{ready, submit, wait_state};
use crate::support::browser::Browser;
use crate::support::{alone, require_root};

#[test]
fn what_a_browser_shows() {
    require_root();
    let _alone = alone();
    let workdir = ready("trixie");
    workdir.ok(&["start", "-n", "2"]);
    let id = submit(&workdir, "oarsub -l \"{network_address='node2'}/core=1,walltime=0:20\" 'sleep 600'");
    wait_state(&workdir, &id, "Running");

    let mut monika = Browser::open("http://localhost:40080/monika");
    monika.shows("both nodes", "['node1', 'node2'].every(n => document.body.innerText.includes(n))");
    monika.shows(
        "the job, in its table",
        &format!("[...document.querySelectorAll('td')].some(c => c.innerText.trim() == '{id}')"),
    );
    monika.shows("its owner", "document.body.innerText.includes('docker')");
    monika.shows(
        "the stylesheet, which came and is applied",
        "[...document.styleSheets].some(s => s.href.endsWith('monika.css') && s.cssRules.length > 3) \
         && getComputedStyle(document.querySelector('td')).borderTopStyle == 'solid' \
         && getComputedStyle(document.body).fontFamily == 'sans-serif'",
    );
    drop(monika);

    let mut gantt = Browser::open("http://localhost:40080/drawgantt-svg/");
    let svg = "document.getElementById('svgObj').contentDocument";
    gantt.shows(
        "both nodes",
        &format!(
            "['node1', 'node2'].every(n => [...{svg}.querySelectorAll('text')].some(t => t.textContent.includes(n)))"
        ),
    );
    gantt.shows(
        "the running job, at its place",
        &format!("[...{svg}.querySelectorAll('rect.job{id}')].some(r => r.getBoundingClientRect().width > 0)"),
    );
    drop(gantt);
    workdir.ok(&["stop"]);
}
