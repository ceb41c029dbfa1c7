//! A whole encrypted run over TLS and an emulated network: the answer is that of the clear model, and the bytes are those
//! of a run without either.

mod support;

use std::thread::JoinHandle;
use undertone_client::{Endpoint, Error, LocalModel, Prompt, Request, RunReport, Way, generate};
use undertone_he::Parameters;
use undertone_infer::Preparation;
use undertone_model::clear_generate;
use undertone_model::sampling::Sampler;
use undertone_net::{ClientTls, Identity, Network, Pins, ServerTls, make_certificate};
use undertone_protocol::Error as ProtocolError;
use undertone_server::{Handle, ModelHost, Options, Server};

const LOG_N: u32 = 11;
const NEW: usize = 2;

struct Scene {
    parameters: Parameters,
    model: LocalModel,
    prompt: Prompt,
    expected: Vec<u32>,
    host: Option<ModelHost>,
}

impl Scene {
    fn new() -> Self {
        let (weights, calibration, window) =
            support::calibrated(support::config(1, vec![]), &Preparation::default(), LOG_N, 6, 9, NEW);
        let parameters = Parameters::insecure_test(LOG_N);
        let prompt: Vec<u32> = window.public.iter().chain(&window.private).copied().collect();
        let expected = clear_generate(&weights, &prompt, NEW, &mut Sampler::greedy()).unwrap();
        let host = ModelHost::new(weights.clone(), calibration.clone(), parameters.clone()).unwrap();
        let model = LocalModel::new(weights, None, calibration).unwrap();
        Self {
            parameters,
            model,
            prompt: Prompt::from_ids(window.public, window.private),
            expected,
            host: Some(host.offer_clear()),
        }
    }

    fn serve(&mut self, tls: ServerTls) -> (std::net::SocketAddr, Handle, JoinHandle<()>) {
        let options = Options { threads: Some(2), tls: Some(tls), ..Options::default() };
        let server = Server::bind(options, Box::new(self.host.take().unwrap())).unwrap();
        let (address, handle) = (server.address(), server.handle());
        (address, handle, std::thread::spawn(move || server.run().unwrap()))
    }

    fn run(&self, way: Way<'_>, server: &Endpoint) -> Result<RunReport, Error> {
        let (model, prompt, sampler) = (&self.model, &self.prompt, &mut Sampler::greedy());
        generate(Request { model, prompt, max_new_tokens: NEW, sampler, server, way }, &mut ())
    }
}

fn identity(name: &str) -> Identity {
    make_certificate(name).unwrap().identity().unwrap()
}

#[test]
fn an_encrypted_run_over_tls_and_a_network_gives_the_answer_of_the_model() {
    let mut scene = Scene::new();
    let (server, client, stranger) = (identity("server"), identity("client"), identity("stranger"));
    let (address, handle, thread) = scene.serve(ServerTls::new(&server, Pins::from(client.pin())).unwrap());
    let tls = |identity| Some(ClientTls::new(identity, Pins::from(server.pin())).unwrap());
    let fhe = Way::Fhe { parameters: &scene.parameters, key: None };

    let near = Endpoint { tls: tls(&client), ..address.into() };
    let far = Endpoint { network: Network::named("lan"), ..near.clone() };
    let reports = [near, far].map(|endpoint| scene.run(fhe, &endpoint).unwrap());
    for report in &reports {
        let tokens: Vec<u32> = report.tokens.iter().map(|token| token.id).collect();
        assert_eq!((tokens, report.mode), (scene.expected.clone(), "fhe"));
        assert!(report.key_bytes > 0);
    }
    // The ledger counts frames, of which TLS and the network know nothing.
    assert_eq!(reports[0].bytes_up, reports[1].bytes_up);

    let clear = Way::Clear { chain: scene.parameters.chain() };
    let refused = scene.run(clear, &Endpoint { tls: tls(&stranger), ..address.into() }).err().unwrap();
    assert!(
        matches!(&refused, Error::Protocol(ProtocolError::Transport { sentence }) if sentence.contains("refused")),
        "{refused}"
    );
    let plain = scene.run(clear, &address.into()).err().unwrap();
    assert!(matches!(plain, Error::Protocol(ProtocolError::TlsPeer)), "{plain}");
    assert!(scene.run(clear, &Endpoint { tls: tls(&client), ..address.into() }).is_ok());
    handle.stop();
    thread.join().unwrap();
}
