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
    assert_eq!(kernel.take(), None, "one plan is in flight at a time");

    // What comes meanwhile goes along with the next part.
    kernel.touch(key(0), Cause::Touched);
    let later = kernel.settled_by();
    assert_eq!((kernel.pending(), kernel.waiting().count()), (3, 2));
    kernel.finish(plan, 1, &[]);
    assert!(kernel.done() < all && all < later);
    assert!(kernel.take().unwrap().into_keys().eq([key(0), key(PLAN)]));
    // There was nothing to do for them.
    assert!(kernel.is_idle() && kernel.done() >= later);
    assert_eq!(kernel.take(), None);

    // What is left of a round is not done when its part is.
    kernel.touch(key(1), Cause::Check);
    assert!(kernel.done() < kernel.settled_by());
}
