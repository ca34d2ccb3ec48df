//! Machines of a network, as network namespaces: links that go dead without a word, as a proxy's do not.

use std::process::Command;

use nix::sched::{CloneFlags, unshare};

/// The port of a server is the same from every machine, its address is not.
pub struct Network {
    machines: Vec<Machine>,
}

/// A namespace with one link to the hub.
pub struct Machine {
    /// Of the namespace; links are named after it.
    namespace: String,
    link: String,
    /// The hub's address as this machine sees it.
    pub hub: String,
}

impl Network {
    /// Takes the calling thread, and all that it starts, into a namespace of its own, the hub, and links so many others
    /// to it. None, with a word why, where the system does not allow that.
    pub fn of(n_machines: usize) -> Option<Self> {
        if !nix::unistd::geteuid().is_root() || Command::new("ip").arg("-V").output().is_err() {
            eprintln!("SKIPPED: network namespaces need root and the program ip");
            return None;
        }
        if let Err(error) = unshare(CloneFlags::CLONE_NEWNET) {
            eprintln!("SKIPPED: no network namespace can be made: {error}");
            return None;
        }
        ip(&["link", "set", "lo", "up"]);
        let mut network = Self { machines: Vec::new() };
        for i in 1..=n_machines {
            let machine = Machine {
                namespace: format!("jetspool-test-{}-{i}", std::process::id()),
                link: format!("machine{i}"),
                hub: format!("10.0.{i}.1"),
            };
            ip(&["netns", "add", &machine.namespace]);
            // From here on its end removes it.
            network.machines.push(machine);
            let machine = &network.machines[i - 1];
            let (name, link) = (machine.namespace.as_str(), machine.link.as_str());
            ip(&["link", "add", link, "type", "veth", "peer", "name", "hub", "netns", name]);
            ip(&["address", "add", &format!("{}/24", machine.hub), "dev", link]);
            ip(&["link", "set", link, "up"]);
            let inside = |words: &[&str]| ip(&[&["-n", name], words].concat());
            inside(&["address", "add", &format!("10.0.{i}.2/24"), "dev", "hub"]);
            inside(&["link", "set", "hub", "up"]);
            inside(&["link", "set", "lo", "up"]);
        }
        Some(network)
    }

    pub fn machine(&self, i: usize) -> &Machine {
        &self.machines[i]
    }
}

impl Machine {
    /// Words that start a program on this machine.
    pub fn prefix(&self) -> Vec<String> {
        ["ip", "netns", "exec", &self.namespace].map(str::to_owned).to_vec()
    }

    /// From here on every packet is lost, or none.
    pub fn cut(&self, is_cut: bool) {
        ip(&["link", "set", &self.link, if is_cut { "down" } else { "up" }]);
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for machine in &self.machines {
            let _ = Command::new("ip").args(["netns", "delete", &machine.namespace]).output();
        }
    }
}

fn ip(words: &[&str]) {
    let output = Command::new("ip").args(words).output().unwrap();
    assert!(output.status.success(), "ip {words:?}: {}", String::from_utf8_lossy(&output.stderr));
}
