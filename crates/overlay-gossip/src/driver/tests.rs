use chitchat::transport::ChannelTransport;
use overlay_model::HostId;
use uuid::Uuid;

use super::*;

#[tokio::test(start_paused = true)]
async fn chitchat_keeps_no_second_copy_of_what_it_holds() {
    let config = GossipConfig::new(HostId(Uuid::from_u128(1)), 1, ([192, 0, 2, 1], 7946).into());
    let mut own = Own::default();
    own.put(RecordKey::Keys, "value".to_owned());
    let transport = Tapped {
        transport: Arc::new(ChannelTransport::default()),
        tap: Arc::default(),
        counters: Arc::default(),
        interval: config.interval,
        own: config.advertise,
    };
    let look = Arc::default();
    let chitchat = spawn(&config, &own, &transport, &look, &BTreeSet::new()).await.unwrap();
    sleep(config.interval * 4).await;
    let chitchat = chitchat.chitchat();
    let mut copies = chitchat.lock().await.live_nodes_watcher();
    assert!(copies.has_changed().unwrap(), "it has looked at who is alive");
    assert!(copies.borrow_and_update().is_empty());
}
