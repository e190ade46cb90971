//! What a model can look up when it needs it: skills (SEP-2640), and the same texts as prompts for clients without skills.
//!
//! Runs in: server. Pure. The texts are files of `skills/`, compiled in; their names and descriptions stand at their heads.

use std::sync::LazyLock;

use futures::future::BoxFuture;
use rmcp::{
    ErrorData,
    model::{
        CacheScope, GetPromptResult, GetSkillResult, ListPromptsResult, ListSkillsResult, Prompt, PromptMessage,
        Resource, ResourceContents, ResourceTemplate, Role, Skill, SkillFrontmatter, SkillResource, SkillResources,
    },
};
use tokio_util::sync::CancellationToken;

use super::resources::{Page, Provider, ResourceError};
use crate::server::{
    events::{Hold, Subject},
    owner::Owner,
    scope::Scope,
};

/// How long clients may keep what stays the same as long as the server runs, milliseconds.
pub(super) const STAYS: u64 = 300_000;

const SCHEME: &str = "skill:";
const TYPE: &str = "text/markdown";

const FILES: [&str; 4] = [
    include_str!("skills/work-with-data/SKILL.md"),
    include_str!("skills/checkpoints-and-branches/SKILL.md"),
    include_str!("skills/long-jobs/SKILL.md"),
    include_str!("skills/when-a-session-is-sick/SKILL.md"),
];

static TEXTS: LazyLock<Vec<Text>> = LazyLock::new(|| FILES.iter().filter_map(|whole| Text::read(whole)).collect());

/// One text.
struct Text {
    name: &'static str,
    description: &'static str,
    /// Without its head.
    body: &'static str,
    /// As it is served.
    whole: &'static str,
}

impl Text {
    fn read(whole: &'static str) -> Option<Self> {
        let (head, body) = whole.strip_prefix("---\n")?.split_once("\n---\n")?;
        let field = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        Some(Self { name: field("name")?, description: field("description")?, body, whole })
    }

    fn uri(&self) -> String {
        format!("skill://{}/SKILL.md", self.name)
    }

    /// `long-jobs` as people read it.
    fn title(&self) -> String {
        let words = self.name.replace('-', " ");
        let (first, rest) = words.split_at(1);
        format!("{}{rest}", first.to_uppercase())
    }

    fn skill(&self) -> Skill {
        let files = vec![SkillResource::from_bytes(self.uri(), self.whole.as_bytes())];
        Skill::new(self.uri(), SkillFrontmatter::new(self.name, self.description), SkillResources::Files(files))
    }

    fn resource(&self) -> Resource {
        let size = self.whole.len() as u64;
        Resource::new(self.uri(), self.name)
            .with_title(self.title())
            .with_description(self.description)
            .with_mime_type(TYPE)
            .with_size(size)
    }
}

pub(super) fn skills() -> ListSkillsResult {
    let all = TEXTS.iter().map(Text::skill).collect();
    ListSkillsResult::with_all_items(all).with_ttl_ms(STAYS).with_cache_scope(CacheScope::Public)
}

pub(super) fn skill(uri: &str) -> Result<GetSkillResult, ErrorData> {
    let found = TEXTS.iter().find(|text| text.uri() == uri);
    let unknown =
        || ErrorData::invalid_params(format!("there is no skill {uri:?}; skills/list names those there are"), None);
    let skill = found.map(Text::skill).ok_or_else(unknown)?;
    Ok(GetSkillResult::new(skill).with_ttl_ms(STAYS).with_cache_scope(CacheScope::Public))
}

pub(super) fn prompts() -> ListPromptsResult {
    let all = TEXTS.iter().map(|text| Prompt::new(text.name, Some(text.description), None).with_title(text.title()));
    ListPromptsResult::with_all_items(all.collect()).with_ttl_ms(STAYS).with_cache_scope(CacheScope::Public)
}

pub(super) fn prompt(name: &str) -> Result<GetPromptResult, ErrorData> {
    let Some(text) = TEXTS.iter().find(|text| text.name == name) else {
        let known: Vec<&str> = TEXTS.iter().map(|text| text.name).collect();
        let words = format!("there is no prompt {name:?}; there are: {}", known.join(", "));
        return Err(ErrorData::invalid_params(words, None));
    };
    let message = PromptMessage::new_text(Role::User, text.body.trim());
    Ok(GetPromptResult::new(vec![message]).with_description(text.description))
}

/// Whether what this address has stays the same.
pub(super) fn stays(uri: &str) -> bool {
    uri.starts_with(SCHEME) || uri.starts_with("forkpy://guide/")
}

/// The files of skills as resources.
pub(crate) struct SkillFiles;

impl Provider for SkillFiles {
    fn scheme(&self) -> &'static str {
        SCHEME
    }

    fn scope(&self) -> Option<Scope> {
        None
    }

    fn templates(&self, _owner: &Owner) -> Vec<ResourceTemplate> {
        Vec::new()
    }

    fn list(
        &self,
        _owner: Owner,
        after: Option<String>,
        most: usize,
        _cancel: CancellationToken,
    ) -> BoxFuture<'_, Result<Page, ResourceError>> {
        let page = Page::of(TEXTS.iter().map(Text::resource), after.as_deref(), most);
        Box::pin(std::future::ready(Ok(page)))
    }

    fn read(
        &self,
        _owner: Owner,
        uri: String,
        _cancel: CancellationToken,
    ) -> BoxFuture<'_, Result<Vec<ResourceContents>, ResourceError>> {
        let found = TEXTS.iter().find(|text| text.uri() == uri);
        let contents = match found {
            Some(text) => Ok(vec![ResourceContents::text(text.whole, uri).with_mime_type(TYPE)]),
            None => Err(ResourceError::Unknown { uri, reason: "skills/list names those there are".to_owned() }),
        };
        Box::pin(std::future::ready(contents))
    }

    fn watch(&self, _owner: &Owner, uri: &str) -> Result<(Subject, Option<Hold>), ResourceError> {
        Err(ResourceError::NotWatched { uri: uri.to_owned(), reason: "a skill never changes" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_text_is_read_and_is_a_skill_as_the_extension_has_it() {
        assert_eq!(TEXTS.len(), FILES.len());
        for text in TEXTS.iter() {
            text.skill().validate().expect("a skill");
            assert!(text.body.trim().starts_with("# ") && text.whole.len() < 4000, "{}", text.name);
            assert!(text.description.len() <= 1024 && !text.description.contains(": "), "plain YAML: {}", text.name);
        }
    }
}
