//! What counts as known of a listing that was never read as a whole.

use super::*;
use crate::remote::api::HttpApi;
use crate::remote::retry::Retries;
use crate::remote::token::Token;
use crate::remote::{Network, Settings};
use snapshot::Candidate;

pub(in crate::actors) fn environment() -> Arc<Environment> {
    let token = Token::new("v2/zzzzz-gj3su-000000000000000/secret").expect("a token");
    // Nothing is asked for: the host need not exist.
    let settings = Settings { insecure: true, ..Settings::new("127.0.0.1:1", token) };
    let network = Network::new(settings).expect("a network");
    Arc::new(Environment {
        api: Arc::new(HttpApi::new(network, Retries::default()).expect("an API")),
        network: tokio::runtime::Handle::current(),
        refresh: Duration::from_secs(3600),
        filters: Default::default(),
        substitution: None,
        news: Arc::default(),
        times: Default::default(),
        writing: None,
    })
}

fn actor() -> ListingActor {
    ListingActor::new(environment(), Cell::new(Source::Project("zzzzz-j7d0g-000000000000000".to_owned())))
}

fn candidate() -> Candidate {
    let target = Target::Collection("zzzzz-4zz18-000000000000000".into());
    Candidate { name: b"name".to_vec(), target, modified: None, can_write: None }
}

#[test]
fn answer_that_an_event_overtook_is_asked_for_again() {
    let (send, receive) = std::sync::mpsc::channel();
    actix::System::new().block_on(async move {
        ListingActor::create(move |context| {
            let mut actor = actor();
            let candidate = candidate();
            let searched = |actor: &mut ListingActor, asked| {
                actor.was_searched(b"name".to_vec(), asked, Ok(Some(candidate.clone())));
                actor.cell.load().and_then(|listing| listing.by_name(b"name").cloned()).expect("published")
            };
            let item = searched(&mut actor, (0, Instant::now()));
            let is_recent_at_first = actor.is_recent(&item);
            let before = (0, Instant::now());
            actor.cell.mark();
            actor.was_marked(context);
            let is_known_still = actor.is_recent(&item);
            let item = searched(&mut actor, before);
            let is_overtaken_recent = actor.is_recent(&item);
            actor.was_marked(context);
            let item = searched(&mut actor, (1, Instant::now()));
            let _ = send.send([is_recent_at_first, is_known_still, is_overtaken_recent, actor.is_recent(&item)]);
            context.stop();
            actor
        });
    });
    assert_eq!(receive.recv(), Ok([true, false, false, true]));
}

/// A reading that began before our own `mkdir` may end without the new name: it is not believed.
#[test]
fn reading_that_our_own_change_overtook_counts_as_out_of_date() {
    let (send, receive) = std::sync::mpsc::channel();
    actix::System::new().block_on(async move {
        ListingActor::create(move |context| {
            let mut actor = actor();
            let add = |actor: &mut ListingActor, context: &mut Context<ListingActor>| {
                let candidate = candidate();
                let (reply, _answer) = tokio::sync::oneshot::channel();
                Handler::<Add>::handle(actor, Add { candidate, reply }, context);
                actor.cell.marks()
            };
            let alone = add(&mut actor, context);
            actor.refresh.begin(Instant::now());
            let _ = send.send([alone, add(&mut actor, context)]);
            context.stop();
            actor
        });
    });
    assert_eq!(receive.recv(), Ok([0, 1]));
}

/// The kernel knows the numbers of before.
#[test]
fn successor_of_an_actor_that_failed_gives_no_number_to_another_object() {
    let (send, receive) = std::sync::mpsc::channel();
    actix::System::new().block_on(async move {
        let cell = Cell::new(Source::Project("zzzzz-j7d0g-000000000000000".to_owned()));
        let object = |number: u32| {
            let name = format!("name {number}").into_bytes();
            Candidate { name, target: Target::Collection(format!("uuid {number}").as_str().into()), ..candidate() }
        };
        for objects in [[1, 2], [3, 2]] {
            let (cell, send) = (cell.clone(), send.clone());
            ListingActor::create(move |context| {
                let mut actor = ListingActor::new(environment(), cell);
                for number in objects {
                    let (reply, mut answer) = tokio::sync::oneshot::channel();
                    Handler::<Add>::handle(&mut actor, Add { candidate: object(number), reply }, context);
                    let added = answer.try_recv().expect("answered at once").expect("added");
                    let _ = send.send((number, added.number));
                }
                context.stop();
                actor
            });
        }
    });
    let given: Vec<(u32, u32)> = receive.into_iter().collect();
    assert_eq!(given.len(), 4);
    assert_eq!(given[1], given[3], "an object keeps its number: {given:?}");
    let different: std::collections::BTreeSet<u32> = given.iter().map(|(_, number)| *number).collect();
    assert_eq!(different.len(), 3, "{given:?}");
}
