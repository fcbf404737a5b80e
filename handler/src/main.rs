//! The coordinator as an AWS Lambda function: the same router, driven by HTTP events.
use std::process::ExitCode;

use agent_coordinator::{
    App, Config, Home, router,
    telemetry::{self, Format},
};

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
    match lambda_http::run(router(App::new(config))).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("the runtime failed: {error}");
            ExitCode::FAILURE
        }
    }
}
