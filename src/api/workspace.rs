//! `WorkspaceService`.

use tonic::{Request, Response, Status};

use super::convert::{page, page_size, spec, workspace};
use super::proto as wire;
use super::proto::workspace_service_server::WorkspaceService;
use crate::workspace::Workspaces;

#[derive(Debug)]
pub(super) struct Service {
    workspaces: Workspaces,
}

impl Service {
    pub(super) fn new(workspaces: Workspaces) -> Self {
        Self { workspaces }
    }
}

#[tonic::async_trait]
impl WorkspaceService for Service {
    async fn ensure(
        &self,
        request: Request<wire::WorkspaceServiceEnsureRequest>,
    ) -> Result<Response<wire::WorkspaceServiceEnsureResponse>, Status> {
        let view = self.workspaces.ensure(spec(request.into_inner().spec)?).await?;
        Ok(Response::new(wire::WorkspaceServiceEnsureResponse { workspace: Some(workspace(view)) }))
    }

    async fn get(
        &self,
        request: Request<wire::WorkspaceServiceGetRequest>,
    ) -> Result<Response<wire::WorkspaceServiceGetResponse>, Status> {
        let view = self.workspaces.get(&request.into_inner().workspace).await?;
        Ok(Response::new(wire::WorkspaceServiceGetResponse { workspace: Some(workspace(view)) }))
    }

    async fn list(
        &self,
        request: Request<wire::WorkspaceServiceListRequest>,
    ) -> Result<Response<wire::WorkspaceServiceListResponse>, Status> {
        let request = request.into_inner();
        let size = page_size(request.page_size, 100, 1000)?;
        let all = self.workspaces.list();
        let (views, next_page_token) =
            page(all, |view| view.id.as_str().as_bytes(), &request.page_token, size)?;
        let workspaces = views.into_iter().map(workspace).collect();
        Ok(Response::new(wire::WorkspaceServiceListResponse { workspaces, next_page_token }))
    }

    async fn start(
        &self,
        request: Request<wire::WorkspaceServiceStartRequest>,
    ) -> Result<Response<wire::WorkspaceServiceStartResponse>, Status> {
        let view = self.workspaces.start(&request.into_inner().workspace).await?;
        Ok(Response::new(wire::WorkspaceServiceStartResponse { workspace: Some(workspace(view)) }))
    }

    async fn stop(
        &self,
        request: Request<wire::WorkspaceServiceStopRequest>,
    ) -> Result<Response<wire::WorkspaceServiceStopResponse>, Status> {
        let view = self.workspaces.stop(&request.into_inner().workspace).await?;
        Ok(Response::new(wire::WorkspaceServiceStopResponse { workspace: Some(workspace(view)) }))
    }

    async fn pause(
        &self,
        request: Request<wire::WorkspaceServicePauseRequest>,
    ) -> Result<Response<wire::WorkspaceServicePauseResponse>, Status> {
        let view = self.workspaces.pause(&request.into_inner().workspace).await?;
        Ok(Response::new(wire::WorkspaceServicePauseResponse { workspace: Some(workspace(view)) }))
    }

    async fn resume(
        &self,
        request: Request<wire::WorkspaceServiceResumeRequest>,
    ) -> Result<Response<wire::WorkspaceServiceResumeResponse>, Status> {
        let view = self.workspaces.resume(&request.into_inner().workspace).await?;
        Ok(Response::new(wire::WorkspaceServiceResumeResponse { workspace: Some(workspace(view)) }))
    }

    async fn delete(
        &self,
        request: Request<wire::WorkspaceServiceDeleteRequest>,
    ) -> Result<Response<wire::WorkspaceServiceDeleteResponse>, Status> {
        self.workspaces.delete(&request.into_inner().workspace).await?;
        Ok(Response::new(wire::WorkspaceServiceDeleteResponse {}))
    }
}
