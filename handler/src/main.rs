//! The service as an AWS Lambda function: the router of the server, called with the HTTP events of Lambda.
mod event;

use std::process::ExitCode;

use agent_coordinator::{
    App, Config, Home, router,
    telemetry::{self, Format},
};
use lambda_http::{lambda_runtime, service_fn};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let config = match Config::from_env(Home::Lambda) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(2);
        }
    };
    telemetry::init(Format::Json, config.log.clone());
    telemetry::warn(&config.warnings);
    let router = router(App::new(config));
    match lambda_runtime::run(service_fn(|event| event::answer(router.clone(), event))).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("the Lambda runtime failed: {error}");
            ExitCode::FAILURE
        }
    }
}
