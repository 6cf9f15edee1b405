//! `hands tool`.

use std::io::{Read, Write};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Subcommand;
use serde_json::{Value, json};

use super::{Format, Shared, block_on};
use crate::api::client::{Client, Streaming};
use crate::api::proto::tool_content::Content;
use crate::api::proto::tool_service_call_tool_response::Message;
use crate::api::proto::{
    ToolResult, ToolServiceCallToolRequest, ToolServiceCallToolResponse, ToolServiceCancelCallRequest,
    ToolServiceListToolsRequest,
};

/// Call the tools of an agent
#[derive(Debug, clap::Args)]
pub(super) struct Tool {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// The tools that there are
    Ls,
    /// Run a tool and print what an agent would be told; exit code 1 if that is an error
    Call(Call),
    /// End a call that runs, with everything that it started
    Cancel(Cancel),
}

#[derive(Debug, clap::Args)]
struct Call {
    /// Key or id of the workspace; it is started if it is stopped
    workspace: String,
    /// Name of the tool
    tool: String,
    /// A JSON object; `-` reads it from standard input
    input: String,
    /// Names the call for ever: the same id never runs twice
    #[arg(long, value_name = "ID")]
    id: Option<String>,
}

#[derive(Debug, clap::Args)]
struct Cancel {
    /// Key or id of the workspace
    workspace: String,
    /// Id of the call
    id: String,
    /// Why, for the agent
    #[arg(long, default_value = "by the operator", value_name = "TEXT")]
    reason: String,
}

impl Tool {
    pub(super) fn run(self, shared: &Shared) -> Result<ExitCode> {
        block_on(async {
            let client = shared.connect().await?;
            match self.verb {
                Verb::Ls => list(&client, shared.output).await,
                Verb::Call(call) => call.run(&client, shared.output).await,
                Verb::Cancel(Cancel { workspace, id: request_id, reason }) => {
                    let request = ToolServiceCancelCallRequest { workspace, request_id, reason };
                    client.tools().cancel_call(request).await?;
                    Ok(ExitCode::SUCCESS)
                }
            }
        })
    }
}

async fn list(client: &Client, format: Format) -> Result<ExitCode> {
    let tools = client.tools().list_tools(ToolServiceListToolsRequest {}).await?.into_inner().tools;
    let mut out = std::io::stdout().lock();
    if format == Format::Json {
        let tools = tools.iter().map(|tool| {
            let schema: Value = serde_json::from_str(&tool.input_schema).context("the schema of a tool")?;
            Ok(json!({ "name": tool.name, "description": tool.description, "input_schema": schema }))
        });
        writeln!(out, "{}", Value::Array(tools.collect::<Result<_>>()?))?;
        return Ok(ExitCode::SUCCESS);
    }
    for tool in tools {
        writeln!(out, "{:8}{}", tool.name, tool.description)?;
    }
    Ok(ExitCode::SUCCESS)
}

impl Call {
    async fn run(self, client: &Client, format: Format) -> Result<ExitCode> {
        let mut input = self.input.into_bytes();
        if input == b"-" {
            input.clear();
            std::io::stdin().lock().read_to_end(&mut input).context("standard input")?;
        }
        let request = ToolServiceCallToolRequest {
            workspace: self.workspace,
            request_id: self.id.unwrap_or_default(),
            tool: self.tool,
            input: input.into(),
        };
        let told = client.tools().call_tool(request).await?.into_inner();
        let (result, media) = result(told).await?;
        let code = u8::from(result.is_error);
        let mut out = std::io::stdout().lock();
        if format == Format::Json {
            writeln!(out, "{}", shown(&result))?;
            return Ok(ExitCode::from(code));
        }
        for content in &result.content {
            match &content.content {
                Some(Content::Text(text)) => writeln!(out, "{text}")?,
                // A picture goes where the caller sends it.
                Some(Content::Image(_) | Content::Document(_)) => out.write_all(&media)?,
                None => {}
            }
        }
        Ok(ExitCode::from(code))
    }
}

/// What came of the call, and the bytes of its media.
async fn result(mut told: Streaming<ToolServiceCallToolResponse>) -> Result<(ToolResult, Vec<u8>)> {
    let mut media = Vec::new();
    while let Some(message) = told.message().await? {
        match message.message {
            Some(Message::Result(result)) => return Ok((result, media)),
            Some(Message::MediaPart(part)) => media.extend_from_slice(&part.data),
            Some(Message::Accepted(_) | Message::Heartbeat(_)) | None => {}
        }
    }
    bail!("tool: the stream was cut: call again with the same --id")
}

fn shown(result: &ToolResult) -> Value {
    let content = result.content.iter().filter_map(|content| match content.content.as_ref()? {
        Content::Text(text) => Some(json!({ "type": "text", "text": text })),
        Content::Image(media) => {
            Some(json!({ "type": "image", "media_type": media.media_type, "size": media.size }))
        }
        Content::Document(media) => {
            Some(json!({ "type": "document", "media_type": media.media_type, "size": media.size }))
        }
    });
    json!({
        "content": content.collect::<Vec<_>>(),
        "is_error": result.is_error,
        "truncated": result.truncated,
    })
}
