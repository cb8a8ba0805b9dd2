//! The CA's bad days, as its script has them: validation by the world's DNS through the world's entry point, faults at the CA.

use anyhow::{Context, Result, ensure};
use evercert_e2e::Story;
use evercert_e2e::leaf::Leaf;
use evercert_e2e::scripted::{Answer, Endpoint, RetryAfter, Settings, Signing};
use evercert_e2e::story::SOON;

use crate::{Tale, tales};

pub(crate) fn tales() -> Vec<Tale> {
    tales![
        a_finalize_whose_answer_is_lost_costs_no_second_order,
        an_order_that_the_ca_works_on_is_asked_for_again_and_not_repeated,
    ]
}

async fn a_finalize_whose_answer_is_lost_costs_no_second_order(story: Story<'_>) -> Result<()> {
    let ca = story.scripted_ca(Settings::default()).await?;
    ca.script().next_finalize(Answer::lost());
    let host = story.host("www");
    story
        .certificate("www", std::slice::from_ref(&host))
        .await?;
    story.ready("www", SOON).await?;
    let count = ca.count();
    ensure!(
        (count.orders, count.finalized, count.certificates) == (1, 1, 1),
        "{count:?}\n{}",
        ca.journal()
    );
    ensure!(ca.journal().of(Endpoint::Challenge).naming(&host).len() == 1);

    let secret = story.secret("www").await?;
    let data = secret.data.context("no data")?;
    let chain = Leaf::parse_chain(&data.get("tls.crt").context("no chain")?.0)?;
    let leaf = chain.first().context("no leaf")?;
    ensure!(leaf.names == [host], "{leaf:?}");
    ensure!(leaf.issuer == "CN=Scripted Intermediate 1.0", "{leaf:?}");
    Ok(())
}

async fn an_order_that_the_ca_works_on_is_asked_for_again_and_not_repeated(
    story: Story<'_>,
) -> Result<()> {
    let ca = story.scripted_ca(Settings::default()).await?;
    ca.script().signing(Signing::Held);
    ca.script()
        .processing_retry_after(Some(RetryAfter::Seconds(1)));
    let names = [story.host("a"), story.host("b")];
    story.certificate("slow", &names).await?;
    story
        .wait_for(
            "the order is read three times meanwhile",
            SOON,
            async || {
                let journal = ca.journal();
                let reads = journal.of(Endpoint::Order);
                let reads = reads.filter(|entry| entry.note.contains("processing"));
                Ok((reads.len() >= 3).then_some(()))
            },
        )
        .await?;
    ca.script().finish_processing();
    story.ready("slow", SOON).await?;
    let count = ca.count();
    ensure!(
        (count.orders, count.finalized, count.challenges) == (1, 1, 2),
        "{count:?}\n{}",
        ca.journal()
    );
    Ok(())
}
