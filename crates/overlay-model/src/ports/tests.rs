use super::*;

#[track_caller]
fn reads(text: &str, as_: &str) {
    assert_eq!(text.parse::<Publish>().unwrap().to_string(), as_, "of {text}");
    assert_eq!(as_.parse::<Publish>().unwrap().to_string(), as_);
}

#[track_caller]
fn refuses(text: &str, why: &str) {
    let message = text.parse::<Publish>().unwrap_err().to_string();
    assert!(message.contains(why), "{text}: {message}");
}

#[test]
fn a_port_reads_as_docker_writes_it() {
    reads("80", "0:80/tcp");
    reads("8080:80", "8080:80/tcp");
    reads("8080:80/udp", "8080:80/udp");
    reads("127.0.0.1:8080:80", "127.0.0.1:8080:80/tcp");
    reads("[2001:db8::1]:8080:80/sctp", "[2001:db8::1]:8080:80/sctp");
    reads("0.0.0.0:8080:80", "8080:80/tcp");
    reads("8000-8009:80-89", "8000-8009:80-89/tcp");
    reads("53:53/udp,mode=ingress", "53:53/udp,mode=cluster");
    reads("published=8080,target=80,protocol=udp,ip=192.0.2.1", "192.0.2.1:8080:80/udp");
    reads("target=80,mode=cluster", "0:80/tcp,mode=cluster");
}

#[test]
fn what_makes_no_sense_is_refused_with_what_would() {
    for text in ["", "a:80", "8080:", "-1:80", "+80:80", "1:2:3", "2001:db8::1:80:80", "8080:80,x"]
    {
        refuses(text, FORM);
    }
    refuses("8080:80/icmp", "tcp, udp or sctp");
    refuses("8080:80,mode=mesh", "host or cluster");
    refuses("8000-8009:80", "as many of both");
    refuses("8080:0", "no port 0");
    refuses("0-3:80-83", "0 is any one port");
    refuses("65535-65536:1-2", FORM);
    refuses("192.0.2.1:80:80,mode=cluster", "every host");
    refuses("published=80,target=0", "no port 0");
    refuses("target=80,speed=9", "published=8080,target=80");
    let beyond = Publish { host_port: 65530, count: 9, ..("1:1".parse::<Publish>().unwrap()) };
    assert!(beyond.check().unwrap_err().to_string().contains("65535"));
}

#[test]
fn two_meet_where_they_claim_one_port_at_one_address() {
    let meets = |a: &str, b: &str| {
        let (a, b): (Publish, Publish) = (a.parse().unwrap(), b.parse().unwrap());
        assert_eq!(a.meets(&b), b.meets(&a));
        a.meets(&b)
    };
    assert!(meets("80:1", "80:2"));
    assert!(!meets("80:1", "80:1/udp"));
    assert!(!meets("80:1", "81:1"));
    assert!(meets("70-80:1-11", "80:2"));
    assert!(!meets("70-79:1-10", "80:2"));
    assert!(meets("192.0.2.1:80:1", "80:2"));
    assert!(!meets("192.0.2.1:80:1", "192.0.2.2:80:1"));
}

#[test]
fn a_range_leads_to_its_first_and_last_port_and_none_beyond() {
    let range: Publish = "8000-8009:65526-65535".parse().unwrap();
    let leads = [1, 8000, 65525, 65526, 65535].map(|own| range.leads_to(own));
    assert_eq!(leads, [false, false, false, true, true]);
    assert!(range.pairs().all(|(_, own)| range.leads_to(own)));
}
