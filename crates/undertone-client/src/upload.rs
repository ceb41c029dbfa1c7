//! The upload of mode fhe: each key of the plan is made, sent and forgotten before the next one exists.

use crate::{Connection, Error, Observer};
use undertone_he::circuits::pc_matmul::ProductParameters;
use undertone_he::{Parameters, UploadKey};
use undertone_protocol::StepSession;
use undertone_protocol::modes::fhe;
use undertone_secret::{KeyGenerator, ProductKeyGenerator, SecretKey, SecretRng};

/// Makes the keys of one session.
pub(crate) struct KeyMaker<'a> {
    parameters: &'a Parameters,
    evaluation: KeyGenerator<'a>,
    /// One for each number of tokens: the three keys of one share a secret that exists nowhere else.
    products: Vec<ProductKeyGenerator<'a>>,
    rng: &'a mut SecretRng,
}

impl<'a> KeyMaker<'a> {
    /// For `secret`, with products of these numbers of tokens.
    ///
    /// # Errors
    /// `Scheme(Parameters)` when the parameters have no products of so many tokens.
    pub(crate) fn new(
        parameters: &'a Parameters,
        secret: &'a SecretKey,
        product_tokens: impl IntoIterator<Item = &'a usize>,
        rng: &'a mut SecretRng,
    ) -> Result<Self, Error> {
        let mut products = Vec::new();
        for &tokens in product_tokens {
            let product = ProductParameters::of_turn(parameters, tokens)?;
            products.push(ProductKeyGenerator::new(&product, secret, rng));
        }
        Ok(Self { parameters, evaluation: KeyGenerator::new(parameters, secret), products, rng })
    }

    /// Writes a key in place of what `out` held.
    fn write(&mut self, key: UploadKey, out: &mut Vec<u8>) -> Result<(), Error> {
        match key {
            UploadKey::Evaluation(request) => {
                self.evaluation.generate(&request, self.rng)?.write_bytes(self.parameters, out);
            }
            UploadKey::Product { id, tokens } => {
                let generator = self.products.iter().find(|product| product.parameters().tokens() == tokens);
                let missing = || undertone_he::Error::MissingKey { key: format!("{tokens}-token product"), need: 1 };
                let generator = generator.ok_or_else(missing)?;
                generator.generate(id, self.rng)?.write_bytes(generator.parameters(), out);
            }
        }
        Ok(())
    }
}

/// Makes, sends and forgets one key after the other.
pub(crate) fn upload(
    keys: &mut KeyMaker<'_>,
    total_bytes: u64,
    session: &mut fhe::Client,
    connection: &mut Connection,
    observer: &mut dyn Observer,
) -> Result<(), Error> {
    let mut sent_bytes = 0;
    while let Some(key) = session.wanted_key() {
        let mut bytes = session.key_memory();
        keys.write(key, &mut bytes)?;
        sent_bytes += bytes.len() as u64;
        session.send_key(bytes)?;
        connection.flush(session)?;
        let (done, total) = session.key_progress();
        observer.key(done, total, sent_bytes, total_bytes);
        if observer.stopped() {
            session.close();
            // The server may be gone already; the run ends either way.
            let _ = connection.flush(session);
            return Err(Error::Stopped);
        }
    }
    Ok(())
}
