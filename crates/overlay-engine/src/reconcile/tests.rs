use overlay_model::{MacAddr, Vni};

use super::*;

fn key(n: usize) -> ObjectKey {
    let [a, b, c, d] = u32::try_from(n).unwrap().to_be_bytes();
    ObjectKey::VxlanFdb(Vni::new(7).unwrap().vxlan(), MacAddr([2, 0, a, b, c, d]))
}

#[test]
fn many_keys_are_planned_in_parts_and_who_waits_for_them_waits_for_all() {
    let mut kernel = Reconciler::default();
    kernel.take_in(KernelState::default(), true);
    (0..=PLAN).for_each(|n| kernel.touch(key(n), Cause::Check));
    let all = kernel.settled_by();
    let first = kernel.take().unwrap();
    assert!(first.into_keys().eq((0..PLAN).map(key)), "in their order");
    assert_eq!(kernel.left().collect::<Vec<_>>(), [&key(PLAN)]);
    let dst = [192, 0, 2, 2].into();
    let plan = kernel.begin(&[KernelOp::Put(key(0), Object::VxlanFdb { dst })]);
    let second = kernel.take().unwrap();
    assert!(second.into_keys().eq([key(PLAN)]), "entries, and so it goes right behind");
    let behind = kernel.begin(&[KernelOp::Put(key(PLAN), Object::VxlanFdb { dst })]);

    // What comes meanwhile waits until nothing is in flight.
    kernel.touch(key(0), Cause::Touched);
    let later = kernel.settled_by();
    assert_eq!((kernel.pending(), kernel.waiting().count()), (3, 1));
    kernel.finish(plan, 1, &[]);
    assert!(kernel.done() < all && all < later);
    assert_eq!(kernel.take(), None, "it may be about what is in flight");
    kernel.finish(behind, 1, &[]);
    assert!(kernel.done() >= all && kernel.done() < later);
    assert!(kernel.take().unwrap().into_keys().eq([key(0)]));
    // There was nothing to do for them.
    assert!(kernel.is_idle() && kernel.done() >= later);
    assert_eq!(kernel.take(), None);

    // What is left of a round is not done when its part is.
    kernel.touch(key(1), Cause::Check);
    assert!(kernel.done() < kernel.settled_by());
}

#[test]
fn nothing_goes_behind_a_plan_that_makes_a_link_or_about_what_is_in_flight() {
    let mut kernel = Reconciler::default();
    kernel.take_in(KernelState::default(), true);
    (0..=PLAN).for_each(|n| kernel.touch(key(n), Cause::Check));
    kernel.take().unwrap();
    let link = Vni::new(7).unwrap().vxlan();
    let plan = kernel.begin(&[KernelOp::DelLink(link)]);
    assert_eq!(kernel.take(), None, "what stands on it may have gone with it");
    kernel.finish(plan, 1, &[]);

    // A key of the part that is left is also in the plan in flight.
    kernel.touch(key(1), Cause::Check);
    (0..=PLAN).for_each(|n| kernel.touch(key(n), Cause::Check));
    kernel.take().unwrap();
    let dst = [192, 0, 2, 2].into();
    let put = |n| KernelOp::Put(key(n), Object::VxlanFdb { dst });
    kernel.begin(&[put(0), put(PLAN)]);
    assert!(kernel.take().is_none_or(|part| !part.contains_key(&key(PLAN))));
    assert!(kernel.is_coming(&key(PLAN)));
}
