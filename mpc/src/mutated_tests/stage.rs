//! Who receives an altered message, and what must not come of it.

use super::fixtures::{Message, Wallet, dealt, keygen_binding};
use super::layout::Layout;
use super::program::alter;
use crate::canary::CanaryDigest;
use crate::engine::Role;
use crate::error::{MpcError, RecoverableReason, Refusal};
use crate::keygen::{
    self, P1AfterRound2, P1Canary, P1Keygen, P2AfterRound1, P2Canary, P2Generated,
};
use crate::sign::{P1Sign, P2SignKept};
use crate::wire::{
    self, Body, Keygen1, Keygen1Reply, Keygen2, Keygen2Reply, Keygen3, Keygen3Reply, Sign1,
    Sign1Reply, Sign2,
};

/// A type of message, which says who receives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// kg1, at P2.
    Keygen1,
    /// kg2, at P2.
    Keygen2,
    /// kg3, at P2.
    Keygen3,
    /// sg1, at P2.
    Sign1,
    /// sg2, at P2.
    Sign2,
    /// kg1's answer, at P1.
    Keygen1Reply,
    /// kg2's answer, at P1.
    Keygen2Reply,
    /// kg3's answer, at P1.
    Keygen3Reply,
    /// sg1's answer, at P1.
    Sign1Reply,
}

impl Target {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Keygen1,
        Self::Keygen2,
        Self::Keygen3,
        Self::Sign1,
        Self::Sign2,
        Self::Keygen1Reply,
        Self::Keygen2Reply,
        Self::Keygen3Reply,
        Self::Sign1Reply,
    ];

    /// Its name, which is that of its corpus.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Keygen1 => "kg1",
            Self::Keygen2 => "kg2",
            Self::Keygen3 => "kg3",
            Self::Sign1 => "sg1",
            Self::Sign2 => "sg2",
            Self::Keygen1Reply => "kg1_reply",
            Self::Keygen2Reply => "kg2_reply",
            Self::Keygen3Reply => "kg3_reply",
            Self::Sign1Reply => "sg1_reply",
        }
    }

    fn receiver(self) -> Role {
        match self {
            Self::Keygen1 | Self::Keygen2 | Self::Keygen3 | Self::Sign1 | Self::Sign2 => Role::P2,
            Self::Keygen1Reply | Self::Keygen2Reply | Self::Keygen3Reply | Self::Sign1Reply => {
                Role::P1
            }
        }
    }

    fn layout(self) -> Layout {
        match self {
            Self::Keygen1 => Layout::kg1(),
            Self::Keygen2 => Layout::kg2(),
            Self::Keygen3 | Self::Sign1Reply => Layout::first_and_second(),
            Self::Sign1 => Layout::sg1(),
            Self::Sign2 | Self::Keygen3Reply => Layout::second_and_last(),
            Self::Keygen1Reply => Layout::kg1_reply(),
            Self::Keygen2Reply => Layout::kg2_reply(),
        }
    }
}

/// What became of an altered message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// The program altered nothing.
    Unaltered,
    /// Refused before the engine.
    Refused,
    /// It belongs to another session.
    OtherSession,
    /// The engine refused it, or the other party did in the next step: recoverable.
    Failed,
    /// The same, and it counts as suspect.
    Suspect,
    /// The counterparty is banned.
    Banned,
    /// It is another honest message: nothing binds its sender to the first one yet.
    Taken,
}

/// The party that waits for the message, and the other one, which goes on if the message passes.
enum Scene {
    Keygen1,
    Keygen1Reply(P1Keygen),
    Keygen2(P2AfterRound1),
    Keygen2Reply(Box<(P1AfterRound2, P2Generated)>),
    Keygen3(P2Canary, P1Canary),
    Keygen3Reply(P1Canary),
    Sign1(P1Sign),
    Sign1Reply(P1Sign, P2SignKept),
    Sign2(P2SignKept),
}

/// Where messages of one type are altered and delivered.
pub struct Stage {
    target: Target,
    wallet: Wallet,
    layout: Layout,
    /// An honest message of another session.
    other: Message,
    /// Kept until something was delivered that used it up.
    ready: Option<(Scene, Message)>,
    /// Messages that did not decode, so far.
    refused: u64,
    /// kg1 and kg2 of a wallet, which fit every P2 with the same nonce: making kg2 takes longest.
    keygen: Option<(Message, Message)>,
}

/// Where kg2 has P1's nonce for the multiplication.
const MULTIPLICATION_NONCE: std::ops::Range<usize> = 9_520..9_552;
/// One in so many messages that do not decode is handed over all the same.
const HANDED_OVER: u64 = 64;
const DIGEST_OF: (&str, u64, &str) = ("profile", 1, "session");
const CANARY_ID: [u8; 32] = [9; 32];
const SERVER_NONCE: [u8; 32] = [2; 32];

fn digest() -> CanaryDigest {
    let (profile, generation, session) = DIGEST_OF;
    CanaryDigest::new(profile, generation, session)
}

impl Stage {
    /// Sets a wallet up, and two honest sessions.
    #[must_use]
    pub fn new(target: Target) -> Self {
        let mut stage = Self {
            target,
            wallet: dealt(1),
            layout: target.layout(),
            other: Message::default(),
            ready: None,
            refused: 0,
            keygen: None,
        };
        let (scene, other) = stage.set();
        assert_eq!(
            other.len(),
            stage.layout.length,
            "README.md says another length of {}",
            target.name()
        );
        let outcome = stage.deliver(scene, &other, &other);
        assert_eq!(outcome, Ok(()), "the honest {} is refused", target.name());
        stage.other = other;
        stage.keygen = None;
        stage.ready = Some(stage.set());
        stage
    }

    /// Alters an honest message as `program` says and delivers it.
    pub fn run(&mut self, program: &[u8]) -> Outcome {
        let (scene, honest) = self.ready.take().unwrap_or_else(|| self.set());
        let altered = alter(&honest, &self.other, &self.layout, program);
        if altered == *honest {
            self.ready = Some((scene, honest));
            return Outcome::Unaltered;
        }
        let decoded = self.decode(&altered, &honest);
        let free = matches!(scene, Scene::Keygen1 | Scene::Sign1(_));
        if let (Err(error), false) = (decoded, free) {
            self.refused += 1;
            // The receiver does nothing else first. Most are not handed over: what waits for them would be used up.
            if !self.refused.is_multiple_of(HANDED_OVER) {
                self.ready = Some((scene, honest));
                return Self::outcome(error);
            }
        }
        let delivered = self.deliver(scene, &altered, &honest);
        if let Err(error) = decoded {
            assert_eq!(delivered, Err(error), "it was not refused first");
        }
        match delivered {
            Ok(()) => {
                assert!(
                    self.may_take(&altered, &honest),
                    "an altered {} was accepted: {}",
                    self.target.name(),
                    hex::encode(program)
                );
                Outcome::Taken
            }
            Err(error) => Self::outcome(error),
        }
    }

    fn outcome(error: MpcError) -> Outcome {
        match error {
            MpcError::Refused(refusal) => {
                let caller = matches!(refusal, Refusal::WrongCanary | Refusal::WrongPurpose);
                assert!(!caller, "{refusal}");
                Outcome::Refused
            }
            MpcError::Recoverable {
                reason: RecoverableReason::SessionBindingMismatch,
                suspect: false,
            } => Outcome::OtherSession,
            MpcError::Recoverable { suspect, reason } => {
                let ours = matches!(
                    reason,
                    RecoverableReason::LocalState | RecoverableReason::Encoding
                );
                assert!(!ours, "{reason}");
                if suspect {
                    Outcome::Suspect
                } else {
                    Outcome::Failed
                }
            }
            MpcError::Ban { .. } => Outcome::Banned,
            MpcError::Panicked => panic!("the engine panicked"),
        }
    }

    /// Whether an altered message is another honest one: nobody is bound to a nonce and a fragment before the first
    /// commitment, and nobody but P1 to its nonces for the multiplication and the canary before the canary, which fails when
    /// the parties differ in them.
    fn may_take(&self, altered: &[u8], honest: &[u8]) -> bool {
        match self.target {
            Target::Keygen1 | Target::Keygen1Reply => true,
            Target::Keygen2 => {
                let canary = honest.len() - 32;
                let free = |at| MULTIPLICATION_NONCE.contains(&at) || at >= canary;
                let same = |(at, (one, other))| one == other || free(at);
                altered.len() == honest.len() && altered.iter().zip(honest).enumerate().all(same)
            }
            _ => false,
        }
    }

    /// What the receiver says about the message before it looks at its session's state.
    fn decode(&self, altered: &[u8], honest: &[u8]) -> Result<(), MpcError> {
        match self.target {
            Target::Keygen1 => self.decode_as::<Keygen1>(altered, honest),
            Target::Keygen2 => self.decode_as::<Keygen2>(altered, honest),
            Target::Keygen3 => self.decode_as::<Keygen3>(altered, honest),
            // The id depends on the nonce inside.
            Target::Sign1 => wire::decode::<Sign1>(Role::P2, altered).map(drop),
            Target::Sign2 => self.decode_as::<Sign2>(altered, honest),
            Target::Keygen1Reply => wire::decode::<Keygen1Reply>(Role::P1, altered).map(drop),
            Target::Keygen2Reply => self.decode_as::<Keygen2Reply>(altered, honest),
            Target::Keygen3Reply => self.decode_as::<Keygen3Reply>(altered, honest),
            Target::Sign1Reply => self.decode_as::<Sign1Reply>(altered, honest),
        }
    }

    fn decode_as<B: Body>(&self, altered: &[u8], honest: &[u8]) -> Result<(), MpcError> {
        let sid = honest.get(2..34).and_then(|sid| sid.try_into().ok());
        let received = wire::decode::<B>(self.target.receiver(), altered)?;
        received.in_session(&sid.unwrap_or_default()).map(drop)
    }

    /// Everything up to an honest message.
    fn set(&mut self) -> (Scene, Message) {
        match self.target {
            Target::Keygen1 => {
                let (_, kg1) = P1Keygen::start().expect("an honest start");
                (Scene::Keygen1, kg1)
            }
            Target::Keygen1Reply => {
                let (p1, kg1) = P1Keygen::start().expect("an honest start");
                let (_, reply) = round_1(&kg1);
                (Scene::Keygen1Reply(p1), reply)
            }
            Target::Keygen2 => {
                if let Some((kg1, kg2)) = &self.keygen {
                    return (Scene::Keygen2(round_1(kg1).0), kg2.clone());
                }
                let (p1, kg1) = P1Keygen::start().expect("an honest start");
                let (p2, reply) = round_1(&kg1);
                let (_, kg2) = p1.round_2(&keygen_binding(), &reply).expect("honest");
                self.keygen = Some((kg1, kg2.clone()));
                (Scene::Keygen2(p2), kg2)
            }
            Target::Keygen2Reply => {
                let (p1, kg1) = P1Keygen::start().expect("an honest start");
                let (p2, reply) = round_1(&kg1);
                let (p1, kg2) = p1.round_2(&keygen_binding(), &reply).expect("honest");
                let mut p2 = p2.round_2(&kg2).expect("honest");
                let message = std::mem::take(&mut p2.message);
                (Scene::Keygen2Reply(Box::new((p1, p2))), message)
            }
            Target::Keygen3 | Target::Keygen3Reply => self.set_canary(),
            Target::Sign1 => {
                let (p1, sg1) = self.wallet.start();
                (Scene::Sign1(p1), sg1)
            }
            Target::Sign1Reply => {
                let (p1, sg1) = self.wallet.start();
                let (p2, reply) = self.wallet.answer(&sg1).expect("honest");
                (Scene::Sign1Reply(p1, p2), reply)
            }
            Target::Sign2 => {
                let (p1, sg1) = self.wallet.start();
                let (p2, reply) = self.wallet.answer(&sg1).expect("honest");
                let sg2 = p1.round_2(&self.wallet.p1, &reply).expect("honest");
                (Scene::Sign2(p2), sg2)
            }
        }
    }

    /// The canary of a dealt wallet, without the key generation before it.
    fn set_canary(&self) -> (Scene, Message) {
        let (p1, p2) = (self.wallet.p1.party(), self.wallet.p2.party());
        let (p2, first) = P2Canary::start(p2, CANARY_ID, digest()).expect("honest");
        let (p1, kg3) = P1Canary::start(p1, CANARY_ID, digest(), first).expect("honest");
        if self.target == Target::Keygen3 {
            return (Scene::Keygen3(p2, p1), kg3);
        }
        let reply = p2.finish(&self.wallet.p2, &kg3, &digest());
        (Scene::Keygen3Reply(p1), reply.expect("honest"))
    }

    /// Hands the message over; if it passes, the other party goes on honestly. Well is only what ends in an active wallet
    /// or a signature, or, where nobody is bound yet, what the receiver takes.
    fn deliver(&mut self, scene: Scene, message: &[u8], honest: &[u8]) -> Result<(), MpcError> {
        let Wallet { p1, p2 } = &self.wallet;
        match scene {
            Scene::Keygen1 => {
                keygen::p2_round_1(&keygen_binding(), SERVER_NONCE, message).map(drop)
            }
            Scene::Keygen1Reply(state) => state.round_2(&keygen_binding(), message).map(drop),
            Scene::Keygen2(state) => state.round_2(message).map(drop),
            Scene::Keygen2Reply(states) => {
                let (one, two) = *states;
                let one = one.round_3(message)?;
                let reply = two.canary.finish(&two.share, &one.message, &digest())?;
                one.canary.finish(&one.share, &reply).map(drop)
            }
            Scene::Keygen3(two, one) => {
                let reply = two.finish(p2, message, &digest())?;
                one.finish(p1, &reply).map(drop)
            }
            Scene::Keygen3Reply(one) => one.finish(p1, message).map(drop),
            Scene::Sign1(one) => {
                let (two, reply) = match self.wallet.answer(message) {
                    Ok(answered) => answered,
                    Err(error) => {
                        // P1 was not asked for anything.
                        self.ready = Some((Scene::Sign1(one), Message::new(honest.to_vec())));
                        return Err(error);
                    }
                };
                let sg2 = one.round_2(p1, &reply)?;
                two.round_2(p2, &sg2).map(drop)
            }
            Scene::Sign1Reply(one, two) => {
                let sg2 = one.round_2(p1, message)?;
                two.round_2(p2, &sg2).map(drop)
            }
            Scene::Sign2(two) => two.round_2(p2, message).map(drop),
        }
    }
}

fn round_1(kg1: &[u8]) -> (P2AfterRound1, Message) {
    keygen::p2_round_1(&keygen_binding(), SERVER_NONCE, kg1).expect("an honest kg1")
}
