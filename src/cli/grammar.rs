//! Every command, option and argument, as data: parsing, help, completion and man pages all read this table.

use Kind::{Choice, Dir, Env, Flag, Int, Lines, Pair, Port, Seconds, Text, Volume};

/// What an option's value is, and how it is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// No value.
    Flag,
    /// No value; the second name is the negative one.
    Pair(&'static str),
    /// Anything.
    Text,
    /// A whole number between the two.
    Int(i64, i64),
    /// Seconds to wait.
    Seconds,
    /// Added to every published port.
    Port,
    /// An existing directory.
    Dir,
    /// The name of an environment.
    Choice,
    /// `HOST[:CONTAINER[:MODE]]`.
    Volume,
    /// `KEY=VALUE`.
    Env,
    /// A number of lines, or `all`.
    Lines,
}

/// What an option is when nobody gives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Default {
    /// null.
    None,
    /// A text.
    Text(&'static str),
    /// A number.
    Int(i64),
    /// A flag.
    Bool(bool),
    /// An empty list: the option may be given several times.
    List,
}

/// One option.
#[derive(Debug, Clone, Copy)]
pub struct Opt {
    /// Name of the parameter, also in environment variables.
    pub param: &'static str,
    /// One-letter name.
    pub short: Option<char>,
    /// Long names without dashes; the first is shown.
    pub long: &'static [&'static str],
    /// Its value.
    pub kind: Kind,
    /// Without it.
    pub default: Default,
    /// For the help page.
    pub help: &'static str,
    /// Newer than oar-docker: left out of the parameters while it has its default, so that old lines parse to what they
    /// always did.
    pub new: bool,
}

impl Opt {
    /// Whether the next token belongs to it.
    pub fn takes_value(&self) -> bool {
        !matches!(self.kind, Flag | Pair(_))
    }

    /// As in `-n, --nodes`, for hints: positive names only.
    pub fn names(&self) -> String {
        let short = self.short.map(|c| format!("'-{c}'"));
        short.into_iter().chain(self.long.iter().take(1).map(|l| format!("'--{l}'"))).collect::<Vec<_>>().join(" / ")
    }
}

/// What follows a command's options.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Args {
    /// Nothing.
    None,
    /// One, with this parameter name and default.
    One(&'static str, Option<&'static str>),
    /// A host name, then all the rest.
    HostAndRest,
    /// All the rest, as host names.
    Rest(&'static str),
    /// Tokens as long as they are host names.
    Hosts(&'static str),
}

/// One command.
#[derive(Debug)]
pub struct Cmd {
    /// As typed.
    pub name: &'static str,
    /// One line.
    pub summary: &'static str,
    /// More lines for its own page.
    pub about: &'static str,
    /// Options in the order of the help page.
    pub options: &'static [Opt],
    /// Arguments.
    pub args: Args,
    /// Command lines with an explanation.
    pub examples: &'static [(&'static str, &'static str)],
}

const fn flag(param: &'static str, short: Option<char>, long: &'static [&'static str], help: &'static str) -> Opt {
    Opt { param, short, long, kind: Flag, default: Default::Bool(false), help, new: false }
}

const fn value(
    param: &'static str,
    short: Option<char>,
    long: &'static [&'static str],
    kind: Kind,
    default: Default,
    help: &'static str,
) -> Opt {
    Opt { param, short, long, kind, default, help, new: false }
}

/// A newer option.
const fn new(option: Opt) -> Opt {
    Opt { new: true, ..option }
}

/// Options that stand before the first command.
pub const GLOBAL: &[Opt] = &[
    value("workdir", None, &["workdir"], Dir, Default::None, "Changes the folder to operate on."),
    value(
        "docker_host",
        None,
        &["docker-host"],
        Text,
        Default::Text("auto"),
        "The engine: auto, managed, containerd://PATH or unix://PATH.",
    ),
    value("cgroup_path", None, &["cgroup-path"], Text, Default::Text("/sys/fs/cgroup"), "The cgroup file system path."),
    new(value(
        "networks",
        None,
        &["network"],
        Text,
        Default::None,
        "The range of addresses that networks are cut from, such as 172.30.0.0/16; 10.158.0.0/15 without it.",
    )),
    value(
        "docker_binary",
        None,
        &["docker-binary"],
        Text,
        Default::Text("docker"),
        "Accepted for old scripts; no docker client is used.",
    ),
    flag("verbose", None, &["verbose"], "Tell the engine and how long each command took."),
    flag("debug", None, &["debug"], "Accepted for old scripts; errors always show their causes."),
    new(flag("dry_run", None, &["dry-run"], "Parse the line, print it as JSON and do nothing.")),
];

/// All commands in alphabetical order.
pub const COMMANDS: &[Cmd] = &[
    Cmd {
        name: "build",
        summary: "Build base images",
        about: "Builds one image per folder of .oardocker/images. Steps whose inputs did not change are taken from the \
                cache; images that do not depend on each other are built at the same time. A running cluster is stopped \
                first.",
        options: &[
            flag("force_rm", None, &["force-rm"], "Remove the containers of failed steps too; always done."),
            flag("no_cache", None, &["no-cache"], "Run every step again."),
            flag("pull", None, &["pull"], "Look for newer base images."),
            flag("quiet", Some('q'), &["quiet"], "Show the images only, not the output of the steps."),
            value(
                "rm",
                None,
                &["rm"],
                Pair("no-rm"),
                Default::Bool(true),
                "Remove the containers of steps; always done.",
            ),
            value(
                "rebuild",
                None,
                &["rebuild"],
                Pair("no-rebuild"),
                Default::Bool(true),
                "Build images that are already there.",
            ),
        ],
        args: Args::None,
        examples: &[("oardocker build", "build all images"), ("oardocker build --no-cache", "from scratch")],
    },
    Cmd {
        name: "clean",
        summary: "Remove stopped containers and images that nothing needs",
        about: "Removes this environment's containers that do not run, and cached build steps that none of the images uses.",
        options: &[],
        args: Args::None,
        examples: &[("oardocker clean", "free disk space")],
    },
    Cmd {
        name: "completion",
        summary: "Print the completion script of a shell",
        about: "SHELL is bash, zsh or fish. Commands in chain position, options, environments, hosts of the running \
                cluster and volume modes are completed.",
        options: &[],
        args: Args::One("shell", None),
        examples: &[
            ("source <(oardocker completion bash)", "in ~/.bashrc"),
            ("oardocker completion zsh > ~/.zfunc/_oardocker", "in a folder of $fpath"),
            ("oardocker completion fish > ~/.config/fish/completions/oardocker.fish", "for fish"),
        ],
    },
    Cmd {
        name: "connect",
        summary: "Connect to a node",
        about: "Opens a shell. Options go before HOSTNAME; what follows HOSTNAME is the next command.",
        options: &[
            value("user", Some('l'), &["user"], Text, Default::Text("docker"), "Log in as this user."),
            value("workdir", Some('w'), &["workdir"], Text, Default::Text("~"), "Start in this directory."),
            value("shell", Some('s'), &["shell"], Text, Default::Text("bash"), "Run this shell."),
        ],
        args: Args::One("hostname", Some("frontend")),
        examples: &[
            ("oardocker connect", "a shell on the frontend as user docker"),
            ("oardocker connect -l root node1", "a root shell on node1"),
        ],
    },
    Cmd {
        name: "destroy",
        summary: "Stop containers and remove all images",
        about: "Stops the cluster and removes this environment's images. Asks first.",
        options: &[flag("force", Some('f'), &["force"], "Do not ask.")],
        args: Args::None,
        examples: &[("oardocker destroy -f", "without a question")],
    },
    Cmd {
        name: "exec",
        summary: "Run a command in an existing node",
        about: "One word is a line for the shell; several words are run exactly as given. Ends with the command's exit \
                code. Of standard input no more is taken than the command takes; signals go to all its processes, and \
                when it ends, those that it left behind are hung up. Nothing can be chained after exec.",
        options: &[
            value("user", Some('l'), &["user"], Text, Default::Text("docker"), "Run as this user."),
            value("workdir", Some('w'), &["workdir"], Text, Default::Text("~"), "Run in this directory."),
            value("tty", Some('t'), &["tty"], Pair("no-tty"), Default::Bool(true), "Allocate a pseudo-TTY."),
            new(flag("no_stdin", Some('n'), &["no-stdin"], "Read nothing, as ssh -n; no pseudo-TTY then.")),
        ],
        args: Args::HostAndRest,
        examples: &[
            ("oardocker exec frontend oarnodes -s", "the state of the nodes"),
            ("oardocker exec node1 'cat /proc/self/cgroup | sort'", "a line for the shell"),
            ("while read h; do oardocker exec -n $h uptime; done < hosts", "one host after the other"),
            ("oardocker exec -l root --no-tty server cat /var/log/oar.log > oar.log", "a file, byte by byte"),
        ],
    },
    Cmd {
        name: "init",
        summary: "Initialize a new environment",
        about: "Copies an environment's definition to .oardocker. Files that you changed are overwritten with -f only, \
                custom_setup.sh never.",
        options: &[
            flag("force", Some('f'), &["force"], "Overwrite an existing environment."),
            value("env", Some('e'), &["env"], Choice, Default::Text("trixie"), "The environment."),
        ],
        args: Args::None,
        examples: &[
            ("oardocker init", "the default environment"),
            ("oardocker init -f -e bookworm build", "another one, and build it"),
        ],
    },
    Cmd {
        name: "install",
        summary: "Install and configure OAR from src",
        about: "SRC is a tarball, a directory, a git working tree, the URL of a tarball, or git+URL of a repository with \
                @ and a branch or tag if need be. It is never written to. The word deb stands for the Debian packages of \
                the environment's own suite. A running cluster is stopped first.",
        options: &[],
        args: Args::One("src", None),
        examples: &[
            ("oardocker install oar-2.6.1.tar.gz", "from a tarball"),
            ("oardocker install . start", "from the working tree, then start"),
            ("oardocker install deb", "from Debian's packages"),
            ("oardocker install git+https://github.com/oar-team/oar.git@2.5", "a branch of a repository"),
        ],
    },
    Cmd {
        name: "logs",
        summary: "Fetch the logs of all nodes or only some",
        about: "Shows what the log host collected. Host names may follow.",
        options: &[
            value("lines", Some('n'), &["lines"], Lines, Default::None, "Number of journal entries to show."),
            flag("no_tail", None, &["no-tail"], "Show all lines, even in follow mode."),
            flag("follow", Some('f'), &["follow"], "Follow log output."),
        ],
        args: Args::Hosts("hostnames"),
        examples: &[
            ("oardocker logs -n 20 server", "the last lines of the server"),
            ("oardocker logs -f", "follow all"),
        ],
    },
    Cmd {
        name: "reset",
        summary: "Restart the containers",
        about: "Restarts the named nodes, or all of them. Nothing can be chained after reset.",
        options: &[
            value(
                "time",
                Some('t'),
                &["time"],
                Seconds,
                Default::Int(10),
                "Number of seconds to wait for a node to shut down before it is killed.",
            ),
            new(flag("stopped", None, &["stopped"], "Only those that do not run.")),
        ],
        args: Args::Rest("hostnames"),
        examples: &[
            ("oardocker reset", "all nodes"),
            ("oardocker reset -t 0 node1 node2", "two of them, at once"),
            ("oardocker reset --stopped", "those that were shut down"),
        ],
    },
    Cmd {
        name: "start",
        summary: "Create and start the nodes",
        about: "Starts the cluster and returns when OAR accepts jobs. A running cluster is stopped first.",
        options: &[
            value("nodes", Some('n'), &["nodes"], Int(0, 1000), Default::Int(3), "The cluster size."),
            value(
                "volumes",
                Some('v'),
                &["volume"],
                Volume,
                Default::List,
                "Share a folder of the host with all nodes: HOST:CONTAINER[:ro|rw|cow]; several times.",
            ),
            value(
                "envs",
                Some('e'),
                &["env"],
                Env,
                Default::List,
                "Set an environment variable: KEY=VALUE; several times.",
            ),
            flag("enable_x11", Some('X'), &["enable-x11"], "Allow the nodes to display X11 applications."),
            value(
                "port_bindings_offset",
                None,
                &["port-bindings-offset"],
                Port,
                Default::Int(40000),
                "Added to the ports of the frontend that are published.",
            ),
            flag(
                "port_bindings_to_any",
                Some('g'),
                &["port-bindings-to-any", "port_bindings-to-any"],
                "Publish ports on all addresses, not only 127.0.0.1.",
            ),
            new(flag("no_wait", None, &["no-wait"], "Return as soon as the nodes boot.")),
            new(flag("plan", None, &["plan"], "Show what would be made, and make nothing.")),
            new(flag("json", None, &["json"], "With --plan: everything, as JSON.")),
        ],
        args: Args::None,
        examples: &[
            ("oardocker start -n 5", "a cluster of five nodes"),
            ("oardocker start -v $PWD:/data:cow connect", "with this folder, writes go to a copy"),
            ("oardocker start -n 5 --plan", "what that would make"),
        ],
    },
    Cmd {
        name: "status",
        summary: "Output status of the cluster",
        about: "Lists this environment's images and containers.",
        options: &[],
        args: Args::None,
        examples: &[("oardocker status", "what is there")],
    },
    Cmd {
        name: "stop",
        summary: "Stop and remove all nodes",
        about: "Removes the cluster: containers, network, mounts and cgroups. Images stay.",
        options: &[],
        args: Args::None,
        examples: &[("oardocker stop", "back to where you were before start")],
    },
];

/// The command of this exact name.
pub fn command(name: &str) -> Option<&'static Cmd> {
    COMMANDS.iter().find(|c| c.name == name)
}

/// Names that a cluster's hosts can have, whatever its size: `services` is what very old environments had.
pub fn is_host(name: &str) -> bool {
    matches!(name, "frontend" | "server" | "rsyslog" | "services")
        || name
            .strip_prefix("node")
            .is_some_and(|n| n.parse::<u32>().is_ok_and(|i| (1..=1000).contains(&i)) && !n.starts_with(['0', '+']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_sorted_and_options_are_unique() {
        assert!(COMMANDS.is_sorted_by_key(|c| c.name));
        for options in COMMANDS.iter().map(|c| c.options).chain([GLOBAL]) {
            let mut names: Vec<String> = options
                .iter()
                .flat_map(|o| o.long.iter().map(|l| (*l).to_owned()).chain(o.short.map(String::from)))
                .chain(["help".to_owned(), "h".to_owned()])
                .collect();
            let count = names.len();
            names.sort();
            names.dedup();
            assert_eq!(names.len(), count);
        }
    }

    #[test]
    fn hosts() {
        for good in ["frontend", "server", "rsyslog", "services", "node1", "node1000"] {
            assert!(is_host(good), "{good}");
        }
        for bad in ["", "node", "node0", "node01", "node1001", "node+1", "start", "Frontend", "node-1"] {
            assert!(!is_host(bad), "{bad}");
        }
    }
}
