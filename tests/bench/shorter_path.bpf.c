// The shortcut that docs/shorter-path.md is about: known unicast goes past the
// bridge, everything else through it. A prototype, for `make bench-kernel ONLY=shorter`.
//
//   outward   ingress of a container's port: source MAC and IPv4 address are its own?
//             then to the VXLAN device, or into the namespace of a port of this host
//   inward    ingress of the VXLAN device: into the namespace of the port that has the MAC
//
// What is no IPv4, lies, or is for a MAC that is not in the table returns TC_ACT_OK:
// the bridge and its rules do with it what they do today.

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/pkt_cls.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

struct mac {
    unsigned char bytes[ETH_ALEN];
};

struct own {
    struct mac mac;
    unsigned short unused;
    unsigned int address;
};

// What a port may say, by its index.
struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 4096);
    __type(key, unsigned int);
    __type(value, struct own);
} owns SEC(".maps");

// Where a MAC is: the index of a port of this host, or the VXLAN device's with bit 31 set.
struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 262144);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __type(key, struct mac);
    __type(value, unsigned int);
} places SEC(".maps");

#define REMOTE 0x80000000u

// Ethernet and IPv4 headers up to the source address, as 32-bit words behind the MACs.
struct frame {
    struct mac to, from;
    unsigned short kind;
    unsigned char ip[12];
    unsigned int source;
} __attribute__((packed));

static __always_inline unsigned long long bits(const struct mac *mac)
{
    unsigned long long bits = 0;
    __builtin_memcpy(&bits, mac, ETH_ALEN);
    return bits;
}

SEC("tc")
int outward(struct __sk_buff *skb)
{
    struct frame *f = (void *)(long)skb->data;
    if ((void *)(f + 1) > (void *)(long)skb->data_end || f->kind != bpf_htons(ETH_P_IP))
        return TC_ACT_OK;
    unsigned int port = skb->ifindex;
    struct own *own = bpf_map_lookup_elem(&owns, &port);
    if (!own || bits(&own->mac) != bits(&f->from) || own->address != f->source)
        return TC_ACT_OK;
    struct mac to = f->to;
    unsigned int *place = bpf_map_lookup_elem(&places, &to);
    if (!place)
        return TC_ACT_OK;
    if (*place & REMOTE)
        return bpf_redirect(*place & ~REMOTE, 0);
    return bpf_redirect_peer(*place, 0);
}

SEC("tc")
int inward(struct __sk_buff *skb)
{
    struct ethhdr *eth = (void *)(long)skb->data;
    if ((void *)(eth + 1) > (void *)(long)skb->data_end)
        return TC_ACT_OK;
    struct mac to;
    __builtin_memcpy(&to, eth->h_dest, ETH_ALEN);
    unsigned int *place = bpf_map_lookup_elem(&places, &to);
    if (!place || *place & REMOTE)
        return TC_ACT_OK;
    return bpf_redirect_peer(*place, 0);
}

char terms[] SEC("license") = "GPL";
