//! What a session that comes from elsewhere is made of, and what one gives out that goes there.
//!
//! Runs in: server, on blocking threads. Whether it fits here has been found out before (`moves`).

use std::{fs::File, sync::atomic::Ordering};

use super::{About, Image, ImageError, Images, beside, outside::Contents};

impl Images {
    /// Keeps what came, sealed with this server's own key. Blocking.
    pub(crate) fn receive(&self, about: &About, contents: Contents) -> Result<Image, ImageError> {
        let shelf = &self.0.shelf;
        let Contents { body, base, instead } = contents;
        let base = match base {
            None => None,
            Some(base) => Some(match self.0.bases.find(about.base) {
                Some(known) => known,
                None => {
                    let path = shelf.path_of(&about.base, "base");
                    if !path.exists() {
                        let bytes = shelf.write_whole(&path, &about.base, &[], &mut File::from(base))?;
                        // It is counted with what is known.
                        shelf.held.fetch_sub(bytes, Ordering::Relaxed);
                    }
                    self.0.bases.known(about.base, path)
                }
            }),
        };
        let image = self.keep_with(body, base.as_ref(), about)?;
        if let Some((values, names)) = instead {
            let about = About { by_value: Some(names), ..about.clone() };
            let bytes = beside::write(shelf, (&image.path, &image.name), values, &about)?;
            image.more.fetch_add(bytes, Ordering::Relaxed);
        }
        Ok(image)
    }

    /// All that lies in the files of an image, once their seals are found to be right. Blocking.
    ///
    /// # Errors
    /// [`ImageError`].
    pub(crate) fn contents(image: &Image) -> Result<Contents, ImageError> {
        if image.base.is_none() {
            return Ok(Contents { body: image.values()?, base: None, instead: None });
        }
        let (body, base) = image.open()?;
        let instead = image.instead().map(|names| image.values_instead().map(|values| (values, names)));
        Ok(Contents { body, base: Some(base), instead: instead.transpose()? })
    }
}
