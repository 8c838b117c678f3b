//! Programs that talk: servers that say who they are and whom they see, clients
//! that ask them, and a station outside of all hosts.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use crate::lab::Lab;
use crate::shell::{inside, run};
use crate::wait::{eventually, patience};

/// How often a server looks whether it is to end.
const TURN: Duration = Duration::from_millis(20);

/// Answers every connection, or every datagram, with `<name> <whom it sees>`; until it
/// is dropped.
#[derive(Debug)]
pub struct Server {
    stop: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn start(mut turn: impl FnMut() -> bool + Send + 'static) -> Self {
        let (stop, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (stopped, count) = (Arc::clone(&stop), Arc::clone(&asked));
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Acquire) {
                if turn() {
                    count.fetch_add(1, Ordering::AcqRel);
                }
            }
        });
        Self { stop, asked, thread: Some(thread) }
    }

    /// Over TCP at `port` of every address in `netns`.
    ///
    /// # Errors
    /// If the port is taken.
    pub fn tcp(netns: &str, name: &str, port: u16) -> Result<Self> {
        let listener = inside(netns, move || {
            let at: SocketAddr = (std::net::Ipv6Addr::UNSPECIFIED, port).into();
            TcpListener::bind(at).with_context(|| format!("cannot listen on {port}"))
        })?;
        listener.set_nonblocking(true)?;
        let name = name.to_owned();
        Ok(Self::start(move || {
            let Ok((mut stream, peer)) = listener.accept() else {
                std::thread::sleep(TURN);
                return false;
            };
            let _ = stream.set_nonblocking(false);
            stream.write_all(format!("{name} {}", peer.ip().to_canonical()).as_bytes()).is_ok()
        }))
    }

    /// Over UDP likewise.
    ///
    /// # Errors
    /// If the port is taken.
    pub fn udp(netns: &str, name: &str, port: u16) -> Result<Self> {
        let socket = inside(netns, move || {
            let at: SocketAddr = (std::net::Ipv6Addr::UNSPECIFIED, port).into();
            UdpSocket::bind(at).with_context(|| format!("cannot bind {port}"))
        })?;
        socket.set_read_timeout(Some(TURN))?;
        let name = name.to_owned();
        Ok(Self::start(move || {
            let mut question = [0; 2048];
            let Ok((_, peer)) = socket.recv_from(&mut question) else { return false };
            let answer = format!("{name} {}", peer.ip().to_canonical());
            socket.send_to(answer.as_bytes(), peer).is_ok()
        }))
    }

    /// How often it has answered.
    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::Acquire)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What the [`Server`] at `at` says over TCP to one in `netns`: its name, and whom it sees.
///
/// # Errors
/// If there is no answer.
pub fn ask_tcp(netns: &str, at: SocketAddr) -> Result<(String, IpAddr)> {
    inside(netns, move || {
        let wait = patience(Duration::from_secs(2));
        let mut stream = TcpStream::connect_timeout(&at, wait)
            .with_context(|| format!("cannot connect to {at}"))?;
        stream.set_read_timeout(Some(wait))?;
        let mut text = String::new();
        stream.read_to_string(&mut text).with_context(|| format!("no answer of {at}"))?;
        words(&text)
    })
}

/// The same over UDP, asked once.
///
/// # Errors
/// If there is no answer.
pub fn ask_udp(netns: &str, at: SocketAddr) -> Result<(String, IpAddr)> {
    UdpClient::new(netns, at)?.ask()
}

/// One socket that asks again and again: one flow.
#[derive(Debug)]
pub struct UdpClient(UdpSocket);

impl UdpClient {
    /// Of a [`Server`] at `at`.
    ///
    /// # Errors
    /// If there is no way there.
    pub fn new(netns: &str, at: SocketAddr) -> Result<Self> {
        let socket = inside(netns, move || {
            let any = if at.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let socket = UdpSocket::bind(any)?;
            socket.connect(at).with_context(|| format!("no way to {at}"))?;
            Ok(socket)
        })?;
        socket.set_read_timeout(Some(patience(Duration::from_millis(500))))?;
        Ok(Self(socket))
    }

    /// # Errors
    /// If there is no answer.
    pub fn ask(&self) -> Result<(String, IpAddr)> {
        self.0.send(b"who is there?")?;
        let mut answer = [0; 2048];
        let length = self.0.recv(&mut answer).context("no answer")?;
        words(std::str::from_utf8(&answer[..length])?)
    }
}

fn words(text: &str) -> Result<(String, IpAddr)> {
    let Some((name, seen)) = text.split_once(' ') else { bail!("`{text}` is no answer") };
    Ok((name.to_owned(), seen.parse()?))
}

/// One connection of TCP over which bytes come all the time, each of them checked, until it
/// is dropped.
#[derive(Debug)]
pub struct Transfer {
    stop: Arc<AtomicBool>,
    received: Arc<AtomicU64>,
    broken: Arc<Mutex<Option<String>>>,
    threads: Vec<JoinHandle<()>>,
}

/// What is sent at a time, ten megabytes a second in all.
const CHUNK: usize = 50_000;

/// What the byte at this place of the stream is: its period meets no size of a packet.
fn byte_at(place: u64) -> u8 {
    (place % 251) as u8
}

impl Transfer {
    /// To one in `client`, who connects to `at`, from one in `server`, who listens at `port`.
    ///
    /// # Errors
    /// If they do not come together.
    pub fn start(server: &str, port: u16, client: &str, at: SocketAddr) -> Result<Self> {
        let listener = inside(server, move || {
            let at: SocketAddr = (std::net::Ipv6Addr::UNSPECIFIED, port).into();
            TcpListener::bind(at).with_context(|| format!("cannot listen on {port}"))
        })?;
        let mut reader = inside(client, move || {
            TcpStream::connect_timeout(&at, patience(Duration::from_secs(2)))
                .with_context(|| format!("cannot connect to {at}"))
        })?;
        let (mut writer, _) = listener.accept()?;
        reader.set_read_timeout(Some(TURN))?;
        writer.set_write_timeout(Some(TURN))?;
        let stop = Arc::new(AtomicBool::new(false));
        let broken: Arc<Mutex<Option<String>>> = Arc::default();
        let received = Arc::new(AtomicU64::new(0));
        let run = |mut turn: Box<dyn FnMut() -> Result<()> + Send>| {
            let (stop, broken) = (Arc::clone(&stop), Arc::clone(&broken));
            std::thread::spawn(move || {
                while !stop.load(Ordering::Acquire) {
                    if let Err(err) = turn() {
                        let mut broken = broken.lock().unwrap_or_else(PoisonError::into_inner);
                        broken.get_or_insert(format!("{err:#}"));
                        return;
                    }
                }
            })
        };
        let waits = |err: &std::io::Error| {
            [ErrorKind::WouldBlock, ErrorKind::Interrupted].contains(&err.kind())
        };
        let mut sent = 0u64;
        let sender = run(Box::new(move || {
            let chunk: Vec<u8> = (sent..sent + CHUNK as u64).map(byte_at).collect();
            match writer.write(&chunk) {
                Ok(n) => sent += n as u64,
                Err(err) if waits(&err) => {}
                Err(err) => return Err(err).context("cannot send"),
            }
            std::thread::sleep(TURN / 4);
            Ok(())
        }));
        let count = Arc::clone(&received);
        let mut buffer = vec![0; 1 << 16];
        let receiver = run(Box::new(move || {
            match reader.read(&mut buffer) {
                Ok(0) => bail!("the connection was closed"),
                Ok(n) => {
                    let from = count.load(Ordering::Acquire);
                    let mut bytes = (from..).zip(&buffer[..n]);
                    ensure!(bytes.all(|(place, byte)| byte_at(place) == *byte), "other bytes");
                    count.fetch_add(n as u64, Ordering::AcqRel);
                }
                Err(err) if waits(&err) => {}
                Err(err) => return Err(err).context("cannot receive"),
            }
            Ok(())
        }));
        Ok(Self { stop, received, broken, threads: vec![sender, receiver] })
    }

    /// Waits until another megabyte has come.
    ///
    /// # Errors
    /// If it does not come, or the connection is broken.
    pub fn goes_on(&self) -> Result<()> {
        let now = || self.received.load(Ordering::Acquire);
        let before = now();
        eventually("the transfer goes on", || {
            let broken = self.broken.lock().unwrap_or_else(PoisonError::into_inner);
            ensure!(broken.is_none(), "{broken:?}");
            ensure!(now() > before + (1 << 20), "{} bytes since", now() - before);
            Ok(())
        })
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// A station on the underlay that is no host of the cluster: `192.0.2.200` and
/// `2001:db8::c8`, without any route to containers.
#[derive(Debug)]
pub struct Outside {
    netns: String,
}

impl Outside {
    /// # Errors
    /// If it cannot be made.
    pub fn new(lab: &Lab) -> Result<Self> {
        let (netns, ul) = (lab.netns("outside")?, lab.underlay_netns());
        for line in [
            format!("ip -n {ul} link add p-outside type veth peer name eth0 netns {netns}"),
            format!("ip -n {ul} link set p-outside master br0 up"),
            format!("ip -n {netns} addr add 192.0.2.200/24 dev eth0"),
            format!("ip -n {netns} addr add 2001:db8::c8/64 dev eth0 nodad"),
            format!("ip -n {netns} link set eth0 up"),
            format!("ip -n {netns} link set lo up"),
        ] {
            run(&line)?;
        }
        Ok(Self { netns })
    }

    /// Its namespace.
    pub fn netns(&self) -> &str {
        &self.netns
    }

    /// Its IPv4 address.
    pub fn ip(&self) -> IpAddr {
        [192, 0, 2, 200].into()
    }

    /// Its IPv6 address.
    pub fn ip6(&self) -> IpAddr {
        IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0xc8])
    }
}

/// Fails unless `answer` came from `name`, who sees `from`.
///
/// # Errors
/// If it did not.
pub fn expect(answer: &(String, IpAddr), name: &str, from: IpAddr) -> Result<()> {
    ensure!(*answer == (name.to_owned(), from), "{answer:?}, not {name} who sees {from}");
    Ok(())
}
