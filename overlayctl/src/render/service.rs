//! Services.

use overlay_api::v1::Service;

use super::{clean, list, table};

/// `service create`.
pub(crate) fn service_created(service: &Service) -> String {
    format!(
        "created service {} of {}: {}, for all endpoints with the alias {}\n",
        clean(&service.name),
        clean(&service.net),
        list(&service.vips),
        clean(&service.alias)
    )
}

/// `service rm`.
pub(crate) fn service_removed(service: &Service) -> String {
    format!("removed service {} of {}\n", clean(&service.name), clean(&service.net))
}

/// `service ls`.
pub(crate) fn services(services: &[Service]) -> String {
    let header = ["NET", "NAME", "ADDRESS", "PORTS", "ALIAS", "ENDPOINTS", "STATE"];
    table(
        header,
        services.iter().map(|service| {
            [
                service.net.clone(),
                service.name.clone(),
                list(&service.vips),
                service.ports.join(","),
                service.alias.clone(),
                list(&service.endpoints),
                service.conflict.clone().unwrap_or_else(|| "ok".to_owned()),
            ]
        }),
    )
}
