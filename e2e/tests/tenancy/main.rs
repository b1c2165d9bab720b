//! Tenants of one node: each does everything in its own namespace and, whatever it tries, nothing in another's. With
//! the server configurations of `docs/security/`, which are loaded here as they are there.
//!
//! `stage` sets the scene for a configuration, `party` is somebody on it, `scenes` are what is tried: the same in all.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "what fails here is a failed test")]

mod nsc;
mod party;
mod scenes;
mod stage;

/// One test for each scene in each configuration.
macro_rules! scenes {
    ($($layout:ident: $variant:ident),+ => $scenes:tt) => { $( scenes!(@ $layout $variant $scenes); )+ };
    (@ $layout:ident $variant:ident { $($scene:ident,)* }) => {
        mod $layout {
            $(
                #[tokio::test]
                async fn $scene() -> anyhow::Result<()> {
                    let stage = crate::stage::Stage::set(crate::stage::Layout::$variant).await?;
                    crate::scenes::$scene(&stage).await
                }
            )*
        }
    };
}

scenes! {
    users: Users, accounts: Accounts, operator: Operator => {
        a_tenant_deploys_lists_calls_follows_and_stops_what_is_its_own,
        a_tenant_commands_nothing_in_another_namespace_nor_the_node,
        a_tenant_hears_nothing_of_another,
        a_tenant_cannot_answer_or_speak_for_the_node,
        a_reply_subject_has_nobody_else_write_where_its_sender_may_not,
        a_tenant_neither_reads_nor_changes_anothers_artifacts,
        a_tenant_does_not_reach_the_buckets_of_anothers_functions,
        no_name_leads_into_another_namespace,
        the_command_line_serves_a_tenant,
    }
}

#[tokio::test]
async fn an_account_that_imports_what_it_was_not_given_gets_nothing() -> anyhow::Result<()> {
    let stage = stage::Stage::set(stage::Layout::Operator).await?;
    scenes::an_account_that_imports_what_it_was_not_given_gets_nothing(&stage).await
}
