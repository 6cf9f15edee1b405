//! `ToolService`.

use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::convert::exit;
use super::proto as wire;
use super::proto::tool_content::Content as Told;
use super::proto::tool_service_call_tool_response::Message;
use super::proto::tool_service_server::ToolService;
use crate::id::Id;
use crate::shutdown::Shutdown;
use crate::tool::{Call, Content, TOOLS, ToolResult, Tools};

/// Silence after which a stream shows that it lives.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// Bytes of a picture or document in one message.
const PART: usize = 1024 * 1024;

#[derive(Debug)]
pub(super) struct Service {
    tools: Tools,
    tasks: Shutdown,
}

impl Service {
    pub(super) fn new(tools: Tools, tasks: Shutdown) -> Self {
        Self { tools, tasks }
    }
}

#[tonic::async_trait]
impl ToolService for Service {
    type CallToolStream = ReceiverStream<Result<wire::ToolServiceCallToolResponse, Status>>;

    async fn list_tools(
        &self,
        _request: Request<wire::ToolServiceListToolsRequest>,
    ) -> Result<Response<wire::ToolServiceListToolsResponse>, Status> {
        let tools = TOOLS.iter().map(|tool| wire::Tool {
            name: tool.name.into(),
            description: tool.description.into(),
            input_schema: tool.schema.into(),
        });
        Ok(Response::new(wire::ToolServiceListToolsResponse { tools: tools.collect() }))
    }

    async fn call_tool(
        &self,
        request: Request<wire::ToolServiceCallToolRequest>,
    ) -> Result<Response<Self::CallToolStream>, Status> {
        let wire::ToolServiceCallToolRequest { workspace, request_id, tool, input } = request.into_inner();
        let id = if request_id.is_empty() { Id::fresh("call").into() } else { request_id };
        let call = Call { id: id.clone(), tool, input: input.into() };
        let (answers, received) = mpsc::channel(4);
        let tools = self.tools.clone();
        self.tasks.spawn_until_cancelled(async move {
            let message = |message| Ok(wire::ToolServiceCallToolResponse { message: Some(message) });
            let called = tools.call(&workspace, call);
            tokio::pin!(called);
            let mut next = message(Message::Accepted(wire::ToolCallAccepted { request_id: id }));
            let last = loop {
                // A caller who is gone waits no longer; the call goes on.
                if answers.send(next).await.is_err() {
                    return;
                }
                tokio::select! {
                    result = &mut called => break result,
                    () = tokio::time::sleep(HEARTBEAT) => {}
                }
                next = message(Message::Heartbeat(wire::ToolCallHeartbeat {}));
            };
            let told = match last {
                Ok(result) => told(result).into_iter().map(message).collect(),
                Err(error) => vec![Err(error.into())],
            };
            for piece in told {
                if answers.send(piece).await.is_err() {
                    return tracing::debug!("the caller left before the result; it is kept");
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(received)))
    }

    async fn cancel_call(
        &self,
        request: Request<wire::ToolServiceCancelCallRequest>,
    ) -> Result<Response<wire::ToolServiceCancelCallResponse>, Status> {
        let request = request.into_inner();
        self.tools.cancel(&request.workspace, &request.request_id, &request.reason).await?;
        Ok(Response::new(wire::ToolServiceCancelCallResponse {}))
    }
}

/// The parts of pictures and documents, then the result.
fn told(result: ToolResult) -> Vec<Message> {
    let (mut told, mut content) = (Vec::new(), Vec::new());
    for (index, piece) in (0..).zip(result.content) {
        let mut media = |media_type, data: Bytes| {
            let size = data.len() as u64;
            let parts =
                data.chunks(PART).map(|part| wire::ToolMediaPart { index, data: data.slice_ref(part) });
            told.extend(parts.map(Message::MediaPart));
            wire::ToolMedia { media_type, size }
        };
        let piece = match piece {
            Content::Text(text) => Told::Text(text),
            Content::Image { media_type, data } => Told::Image(media(media_type, data)),
            Content::Document { media_type, data } => Told::Document(media(media_type, data)),
        };
        content.push(wire::ToolContent { content: Some(piece) });
    }
    told.push(Message::Result(wire::ToolResult {
        content,
        is_error: result.is_error,
        truncated: result.truncated,
        exit: result.exit.map(exit),
        duration: result.duration.try_into().ok(),
    }));
    told
}
