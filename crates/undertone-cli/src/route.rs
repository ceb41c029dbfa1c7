//! How layers run in mode fhe, through slots or in turns: the flag, and the choice that `run`, `demo` and `eval` make and `plan`
//! shows.

use crate::error::{Error, Result};
use crate::mode::Mode;
use clap::{Args, ValueEnum};
use undertone_client::LocalModel;
use undertone_he::Parameters;
use undertone_protocol::message::WireShape;
use undertone_protocol::modes::fhe::{self, Route};

/// A route as a flag names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RouteName {
    /// Projections are linear transforms of slots
    Slots,
    /// Projections are products on coefficients, between the halves of bootstraps
    Turns,
}

impl RouteName {
    /// The shipped parameter set of this route.
    pub fn preset(self) -> Parameters {
        match self {
            Self::Slots => Parameters::default_preset(),
            Self::Turns => Parameters::product_preset(),
        }
    }
}

impl From<RouteName> for Route {
    fn from(name: RouteName) -> Self {
        match name {
            RouteName::Slots => Self::Slots,
            RouteName::Turns => Self::Turns,
        }
    }
}

/// The flag.
#[derive(Debug, Clone, Copy, Default, Args)]
pub struct RouteArguments {
    /// How layers run (mode fhe); the route that is less work for this model and these lengths unless given
    #[arg(long, value_enum, value_name = "ROUTE")]
    pub route: Option<RouteName>,
}

impl RouteArguments {
    /// The route that was asked for.
    pub fn only(&self) -> Option<Route> {
        self.route.map(Route::from)
    }

    /// Refuses the flag where layers run one way only.
    ///
    /// # Errors
    /// `Usage` in another mode than `fhe`.
    pub fn check_mode(&self, mode: Mode) -> Result<()> {
        if self.route.is_some() && mode != Mode::Fhe {
            let name = mode.name();
            return Err(Error::Usage(format!("--route belongs to mode fhe; leave it away in mode {name}")));
        }
        Ok(())
    }

    /// The route that was asked for, or that of a stored key, which serves one parameter set alone.
    ///
    /// # Errors
    /// `Usage` when the two differ.
    pub fn with_key(&self, key: Option<&Parameters>) -> Result<Option<Route>> {
        match (self.only(), key.map(Route::of)) {
            (Some(asked), Some(own)) if asked != own => {
                let (asked, own) = (asked.name(), own.name());
                Err(Error::Usage(format!(
                    "the stored key serves route {own}, not {asked}; leave --route away, or make a key for the other with \
                     `undertone keys new NAME --route {asked}`"
                )))
            }
            (asked, own) => Ok(asked.or(own)),
        }
    }
}

/// The parameter set of one session: that of `only`, or the one of `sets` under which it is least work.
///
/// # Errors
/// Shapes and calibrations under which no session can run.
pub fn parameters_for(
    sets: &[Parameters],
    model: &LocalModel,
    shape: WireShape,
    only: Option<Route>,
) -> Result<Parameters> {
    Ok(fhe::choose(sets, &model.config, Some(&model.calibration), shape, only)?.taken.parameters)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stored_key_decides_and_contradictions_are_refused() {
        let (slots, turns) = (RouteName::Slots.preset(), RouteName::Turns.preset());
        assert_eq!((Route::of(&slots), Route::of(&turns)), (Route::Slots, Route::Turns));
        let free = RouteArguments::default();
        assert_eq!(free.with_key(None).unwrap(), None);
        assert_eq!(free.with_key(Some(&turns)).unwrap(), Some(Route::Turns));
        let asked = RouteArguments { route: Some(RouteName::Turns) };
        assert_eq!(asked.with_key(None).unwrap(), Some(Route::Turns));
        assert_eq!(asked.with_key(Some(&turns)).unwrap(), Some(Route::Turns));
        let said = asked.with_key(Some(&slots)).unwrap_err().to_string();
        assert!(
            said.contains("serves route slots, not turns") && said.contains("keys new NAME --route turns"),
            "{said}"
        );
        assert!(asked.check_mode(Mode::Fhe).is_ok() && free.check_mode(Mode::Permuted).is_ok());
        assert!(asked.check_mode(Mode::Permuted).is_err());
    }
}
