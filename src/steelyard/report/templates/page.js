// Tables and figures of a page: sort, filter, hide, download.
